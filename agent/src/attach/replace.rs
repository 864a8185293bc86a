//! Other programs at all links at once, for tables that have moved.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use tracing::warn;

use super::{HOOKS, INTERFACE_HOOKS, is_gone};
use crate::{bpf, bpffs::Layout, dataplane::Object};

/// A program for each pinned link, loaded: nothing slow is left to do when they are to change places.
pub struct Replacements {
    of_links: Vec<Replacement>,
}

struct Replacement {
    pin: String,
    link: OwnedFd,
    program: OwnedFd,
}

impl Replacements {
    /// Loads the programs.
    ///
    /// # Errors
    /// The verifier's refusal, with its log, and the file system's.
    pub fn prepare(object: &mut Object, layout: &Layout) -> Result<Self> {
        let dir = layout.links();
        let mut of_links = Vec::new();
        let pins = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in pins {
            let entry = entry?;
            let Ok(pin) = entry.file_name().into_string() else {
                continue;
            };
            let Some(program) = program(object, &pin)? else {
                continue;
            };
            match bpf::open_pinned(&entry.path()) {
                Ok(link) => of_links.push(Replacement { pin, link, program }),
                Err(error) => warn!(pin, %error, "cannot open what is pinned as a link"),
            }
        }
        Ok(Self { of_links })
    }

    /// Replaces each link's program in place: every event runs the old one or the new one. Links whose target has gone have
    /// nothing to run; what is pinned as one and is none, or another kind of link, is left to whoever attaches there.
    pub fn carry_out(&self) {
        for Replacement { pin, link, program } in &self.of_links {
            match bpf::update_link(link, program) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => warn!(pin, %error, "cannot replace the program of a link"),
            }
        }
    }
}

/// The program of the hook whose links are pinned under that name.
fn program(object: &mut Object, pin: &str) -> Result<Option<OwnedFd>> {
    if let Some(hook) = HOOKS.iter().find(|hook| hook.name == pin) {
        let (_, program) = object.load_socket_program(hook.program)?;
        return Ok(Some(program.as_fd().try_clone_to_owned()?));
    }
    let name = pin.rsplit_once('-').map(|(name, _)| name);
    let hook = INTERFACE_HOOKS.iter().find(|hook| Some(hook.name) == name);
    hook.map(|hook| object.load_classifier(hook.program))
        .transpose()
}
