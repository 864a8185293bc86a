//! The `datapath` object: its maps pinned or adopted, its programs loaded.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier},
};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use weir_abi::table;

use super::{
    pins,
    resize::{self, Moving, Resize, Sizes},
};
use crate::{
    attach::Replacements,
    bpffs::Layout,
    capabilities::{self, BPF, Capability, NET_ADMIN, PERFMON},
};

/// The compiled object, built by `build.rs` from `agent-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath"));

/// The maps that survive the agent, by name.
pub const PINNED_MAPS: [&str; 16] = [
    table::SERVICES,
    table::SLOTS,
    table::BACKENDS,
    table::MEMBERS,
    table::SOURCE_RANGES,
    table::AFFINITY,
    table::CONFIG,
    table::LEARNED,
    table::ENDPOINTS,
    table::FLOWS,
    table::FRAGMENTS,
    table::OPT_OUT,
    table::SOCKET_ORIGINS,
    table::DATAGRAM_ORIGINS,
    table::SERVICE_COUNTERS,
    table::VERDICTS,
];

/// What making the maps (BPF), loading programs of this type (BPF and NET_ADMIN), and getting them past the verifier takes
/// (PERFMON: without it, it allows no arithmetic on pointers to the stack that it cannot fold).
const NEEDED: [Capability; 3] = [BPF, NET_ADMIN, PERFMON];

/// The loaded object.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// The object itself, for whoever wants tables of its own: tests of single programs do.
    #[must_use]
    pub fn bytes() -> &'static [u8] {
        OBJECT
    }

    /// Opens the pinned maps, or makes and pins them. Those of another size than the one wanted are replaced by new ones of the
    /// same content, and the programs at pinned links by these (see [`super::resize`]), unless they hold too much for it.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program, or cannot parse the object; `weir check` says what is missing.
    pub fn open(layout: &Layout, wanted: impl Into<Sizes>) -> Result<Self> {
        let wanted = wanted.into();
        pins::remove_nonsense(layout)?;
        if resize::was_interrupted(layout) {
            let flows_move = resize::has_flows_aside(layout);
            let before = flows_move.then(|| layout.resized(table::FLOWS));
            let mut object = Self::load(&wanted, |name| layout.map(name), before)?;
            let replacements = Replacements::prepare(&mut object, layout)?;
            let moving = flows_move.then(|| object.moving()).transpose()?;
            resize::finish_interrupted(layout, &replacements, moving)?;
        }
        let Some(resize) = Resize::needed(layout, &wanted)? else {
            return Self::load(&wanted, |name| layout.map(name), None);
        };
        resize::begin(layout)?;
        let path = |name: &str| {
            if resize.changes(name) {
                layout.resized(name)
            } else {
                layout.map(name)
            }
        };
        let flows_move = resize.changes(table::FLOWS);
        let before = flows_move.then(|| layout.map(table::FLOWS));
        let mut object = Self::load(&wanted, path, before)?;
        let replacements = Replacements::prepare(&mut object, layout)?;
        resize.copy(layout)?;
        resize.exchange_pins(layout)?;
        let moving = flows_move.then(|| object.moving()).transpose()?;
        resize.finish(layout, &replacements, moving)?;
        Ok(object)
    }

    fn moving(&mut self) -> Result<Moving> {
        let map = self.ebpf.take_map(table::FLOWS_MOVE);
        Moving::new(map.with_context(|| format!("the datapath has no {}", table::FLOWS_MOVE))?)
    }

    /// Loads the object on the maps pinned at these paths, which are made if they are not there. `before` is the map that
    /// `FLOWS` takes over from.
    fn load(
        wanted: &Sizes,
        path: impl Fn(&str) -> PathBuf,
        before: Option<PathBuf>,
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in PINNED_MAPS {
            loader.map_pin_path(name, path(name));
        }
        if let Some(before) = before {
            loader.map_pin_path(table::FLOWS_BEFORE, before);
        }
        for (name, size) in wanted.by_name() {
            loader.map_max_entries(name, size);
        }
        let ebpf = loader.load(OBJECT).map_err(|error| {
            refused(
                error.into(),
                "cannot load the datapath object",
                "; `weir check` tells what this kernel lacks",
            )
        })?;
        Ok(Self { ebpf })
    }

    /// A handle of its own to a pinned map.
    ///
    /// # Errors
    /// When the map is not pinned (any more).
    pub fn pinned_map(layout: &Layout, name: &str) -> Result<MapData> {
        let path = layout.map(name);
        MapData::from_pin(&path).with_context(|| format!("cannot open the map {}", path.display()))
    }

    /// Loads a socket hook's program into the kernel, unless that was done before, and returns its descriptor.
    ///
    /// # Errors
    /// The verifier's refusal, with its log.
    pub fn load_socket_program(&mut self, name: &str) -> Result<(&mut CgroupSockAddr, ProgramFd)> {
        let program: &mut CgroupSockAddr = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the datapath object has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            uninterrupted(|| program.load()).map_err(|error| {
                refused(
                    error.into(),
                    &format!("the kernel refused the program {name}"),
                    "",
                )
            })?;
        }
        let fd = program.fd()?.try_clone()?;
        Ok((program, fd))
    }

    /// Loads an interface hook's program into the kernel, unless that was done before, and returns its descriptor.
    ///
    /// # Errors
    /// The verifier's refusal, with its log.
    pub fn load_classifier(&mut self, name: &str) -> Result<OwnedFd> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the datapath object has no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            uninterrupted(|| program.load())
                .with_context(|| format!("the kernel refused the program {name}"))?;
        }
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }

    /// Starts the task that turns the programs' log records into ours. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the log map is missing from the object.
    pub fn spawn_log_reader(&mut self) -> Result<()> {
        let logger = EbpfLogger::init(&mut self.ebpf).context("the datapath has no log map")?;
        // SAFETY: the logger owns its ring buffer, whose descriptor stays the same until it is dropped.
        let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(io::Error::from)?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }
}

/// Loads a program, and again when the kernel gave up verifying it because of a signal (`EAGAIN`), which is no refusal.
fn uninterrupted(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const ATTEMPTS: usize = 10;
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    load()
}

/// Explains why something of the object was refused. If a capability is missing, that is all there is to say: what the kernel
/// and the verifier say then leads astray.
fn refused(error: anyhow::Error, what: &str, hint: &str) -> anyhow::Error {
    match capabilities::lacking(&NEEDED) {
        Some(why) => anyhow!("{what}: {why}"),
        None => error.context(format!("{what}{hint}")),
    }
}
