//! Programs at interfaces: one pinned tcx link for each hook and interface, `<hook>-<ifindex>`, whose program is replaced in place.
//!
//! Several programs may sit at one hook. Ours is the one nearest to the interface in both directions: the first to see what it
//! receives, the last to see what is sent out of it. So whatever another program sees, on the way in or out, is translated and
//! has passed our verdict; and nobody ahead of us on the way in ends the walk (any verdict but `TCX_NEXT` does), which would let
//! untranslated packets through. A program that is attached later may still ask for a place before ours; that is left to whoever
//! asks. Filters of the older `clsact` qdisc run after all of tcx, if the last verdict was `TCX_NEXT`.

use std::{collections::BTreeSet, fs, io, os::fd::OwnedFd};

use super::{Hook, How};
use crate::{
    bpf::{self, Direction, Order},
    bpffs::{self, Layout},
};

/// A hook at interfaces, and the program that belongs there.
pub struct InterfaceHook {
    /// Its row in the hook table; the name begins the names of its links.
    pub hook: Hook,
    /// Where it sits.
    pub direction: Direction,
    /// The loaded program, of type `BPF_PROG_TYPE_SCHED_CLS`.
    pub program: OwnedFd,
}

impl InterfaceHook {
    fn pin_name(&self, ifindex: u32) -> String {
        format!("{}-{ifindex}", self.hook.name)
    }

    /// Attaches the program to the interface, or takes over the link that an earlier agent pinned for it.
    ///
    /// # Errors
    /// The kernel's; [`is_gone`] tells whether it is only that the interface has gone.
    pub fn attach(&self, layout: &Layout, ifindex: u32) -> io::Result<How> {
        let path = layout.link(&self.pin_name(ifindex));
        let how = match bpf::open_pinned(&path) {
            Ok(link) => {
                if bpf::target_of_tcx_link(&link)? == Some((ifindex, self.direction as u32)) {
                    match bpf::update_link(&link, &self.program) {
                        Ok(()) => return Ok(How::Replaced),
                        // It went between the two calls.
                        Err(error) if is_gone(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                // Of an interface that has gone, whose index came again: it must not keep the name.
                How::Moved
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound || path.is_dir() => How::New,
            Err(error) => return Err(error),
        };
        let order = match self.direction {
            Direction::Ingress => Order::First,
            Direction::Egress => Order::Last,
        };
        bpffs::clear(&path)?;
        let link = bpf::attach_tcx(&self.program, ifindex, self.direction, order)?;
        bpf::pin(&link, &path)?;
        Ok(how)
    }

    /// Takes the program off the interface, which may be gone.
    ///
    /// # Errors
    /// The file system's.
    pub fn detach(&self, layout: &Layout, ifindex: u32) -> io::Result<()> {
        match fs::remove_file(layout.link(&self.pin_name(ifindex))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Takes the program off every interface but these, as an earlier agent may have left it there. Returns the indices.
    ///
    /// # Errors
    /// The file system's; the rest has been tried.
    pub fn detach_others(&self, layout: &Layout, keep: &BTreeSet<u32>) -> io::Result<Vec<u32>> {
        let mut removed = Vec::new();
        let mut failure = None;
        for entry in fs::read_dir(layout.links())? {
            let name = entry?.file_name();
            let Some(ifindex) = name.to_str().and_then(|name| self.ifindex_of(name)) else {
                continue;
            };
            if keep.contains(&ifindex) {
                continue;
            }
            match self.detach(layout, ifindex) {
                Ok(()) => removed.push(ifindex),
                Err(error) => failure = Some(error),
            }
        }
        removed.sort_unstable();
        failure.map_or(Ok(removed), Err)
    }

    /// The interface of a link of this hook, by the name of its pin.
    fn ifindex_of(&self, pin: &str) -> Option<u32> {
        pin.strip_prefix(self.hook.name)?
            .strip_prefix('-')?
            .parse()
            .ok()
    }
}

/// Whether an error says that the interface has gone: nothing is left to attach to, and nothing is wrong.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOLINK | libc::ENXIO)
    )
}
