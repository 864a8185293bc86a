//! Which kernel this is.

use rustix::system::uname;

/// The kernel that first has everything Weir can use: tcx links.
pub(super) const WHOLE: (u32, u32) = (6, 6);

/// `Linux 6.18.44 x86_64`
pub(super) fn name() -> String {
    let system = uname();
    let part = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    format!(
        "{} {} {}",
        part(system.sysname()),
        part(system.release()),
        part(system.machine())
    )
}

/// Major and minor version.
pub(super) fn version() -> Option<(u32, u32)> {
    parse(&uname().release().to_string_lossy())
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_two_numbers_in_front() {
        assert_eq!(parse("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(parse("5.14-rc3"), Some((5, 14)));
        assert_eq!(parse("linux"), None);
        assert!(version().is_some_and(|version| version > (4, 0)));
    }
}
