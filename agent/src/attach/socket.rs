//! Socket hooks on the cgroup root: one pinned link each, whose program is replaced in place.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use aya::programs::{CgroupAttachMode, links::FdLink};
use tracing::info;

use super::{CgroupRoot, HOOKS, Hook};
use crate::{
    bpf,
    bpffs::{self, Layout},
    dataplane::Object,
};

/// What happened at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing of ours was there.
    New,
    /// An earlier agent's program was replaced; no event passed without one.
    Replaced,
    /// The earlier link was to another cgroup, or to one that is gone.
    Moved,
}

/// One attached hook.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The hook.
    pub hook: Hook,
    /// The cgroup it is attached to.
    pub target: PathBuf,
    /// Where its link is pinned.
    pub link: PathBuf,
    /// What happened.
    pub how: How,
}

/// Attaches every socket hook to `root`, or takes over the links that an earlier agent pinned.
///
/// # Errors
/// When the kernel refuses a program or a link. Hooks attached before stay as they are.
pub fn attach_socket_hooks(
    object: &mut Object,
    layout: &Layout,
    root: &CgroupRoot,
) -> Result<Vec<Attached>> {
    HOOKS
        .iter()
        .map(|hook| {
            let how = attach(object, layout, root, hook).with_context(|| {
                format!("cannot attach {} to {}", hook.name, root.path.display())
            })?;
            info!(hook = hook.name, cgroup = %root.path.display(), ?how, "attached");
            Ok(Attached {
                hook: *hook,
                target: root.path.clone(),
                link: layout.link(hook.name),
                how,
            })
        })
        .collect()
}

fn attach(object: &mut Object, layout: &Layout, root: &CgroupRoot, hook: &Hook) -> Result<How> {
    let path = layout.link(hook.name);
    let (program, program_fd) = object.load_socket_program(hook.program)?;

    let old = match bpf::open_pinned(&path) {
        Ok(link) if bpf::cgroup_of_link(&link)? == root.id => {
            bpf::update_link(&link, &program_fd).context("cannot replace the program")?;
            return Ok(How::Replaced);
        }
        Ok(link) => Some(link),
        Err(error) if error.kind() == io::ErrorKind::NotFound || path.is_dir() => None,
        Err(error) => {
            return Err(anyhow!(error).context(format!("cannot open {}", path.display())));
        }
    };

    let link = program.attach(&root.dir, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    bpffs::clear(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    if let Some(old) = &old {
        match bpf::detach_link(old) {
            // It was no link.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            detached => detached.context("cannot detach the link to another cgroup")?,
        }
    }
    link.pin(&path)
        .with_context(|| format!("cannot pin the link at {}", path.display()))?;
    Ok(if old.is_some() { How::Moved } else { How::New })
}
