//! Program types, helpers, maps and links, each found by using it.

use std::io;

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::{
    Finding, Group, State, Thing,
    raw::{self, AttachType},
};

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = required();
    findings.extend(packets());
    findings.extend(tracing());
    findings
}

const CANNOT_RUN: &str = "Weir cannot run on this kernel; 5.18 is the first that has it";

fn required() -> Vec<Finding> {
    let thing = |name, gives, costs| Thing {
        name,
        group: Group::Required,
        gives,
        costs,
    };
    vec![
        thing(
            "socket programs",
            "connections translated once, when a process connects",
            CANNOT_RUN,
        )
        .probed(is_program_supported(ProgramType::CgroupSockAddr)),
        thing(
            "bpf_set_retval",
            "ECONNREFUSED at once for services without endpoints",
            CANNOT_RUN,
        )
        .probed(is_helper_supported(
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_set_retval,
        )),
        socket_storage(thing(
            "socket storage",
            "getpeername() answers with the service's address; ends with the socket",
            CANNOT_RUN,
        )),
        thing(
            "mmap-able tables",
            "thousands of endpoints written without system calls",
            CANNOT_RUN,
        )
        .probed(raw::mmapable_array()),
        thing(
            "cgroup links",
            "programs that stay attached when the agent ends",
            CANNOT_RUN,
        )
        .probed(raw::link_kind(
            ProgramType::CgroupSockAddr,
            AttachType::CgroupConnect4,
        )),
        thing(
            "link update",
            "upgrades that replace a program between two connections",
            CANNOT_RUN,
        )
        .probed(raw::link_update()),
    ]
}

fn socket_storage(thing: Thing) -> Finding {
    match is_map_supported(MapType::SkStorage) {
        Ok(true) => thing.probed(is_helper_supported(
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_sk_storage_get,
        )),
        outcome => thing.probed(outcome),
    }
}

fn packets() -> Vec<Finding> {
    let thing = |name, gives, costs| Thing {
        name,
        group: Group::Packets,
        gives,
        costs,
    };
    vec![
        thing(
            "tcx",
            "packet programs on devices, beside those of others, in a defined order",
            "UDP services, NodePorts and network policies need Linux 6.6",
        )
        .probed(raw::link_kind(
            ProgramType::SchedClassifier,
            AttachType::TcxIngress,
        )),
        thing(
            "bpf_redirect_peer",
            "packets handed into a local pod without a second pass through the stack",
            "packets to pods on this node take the longer way",
        )
        .probed(is_helper_supported(
            ProgramType::SchedClassifier,
            BpfHelper::BPF_FUNC_redirect_peer,
        )),
        thing(
            "LPM tries",
            "address ranges in policies",
            "network policies cannot be enforced",
        )
        .probed(is_map_supported(MapType::LpmTrie)),
        thing(
            "LRU maps",
            "flow and affinity tables that forget the oldest when full",
            "no packet translation and no session affinity",
        )
        .probed(is_map_supported(MapType::LruHash)),
        thing(
            "ring buffers",
            "events in order, from all CPUs",
            "no flow events and no traces (5.8)",
        )
        .probed(is_map_supported(MapType::RingBuf)),
    ]
}

fn tracing() -> Vec<Finding> {
    let thing = |name, gives, costs| Thing {
        name,
        group: Group::Tracing,
        gives,
        costs,
    };
    vec![
        thing(
            "tracepoints",
            "tracing at the kernel's stable points",
            "no tracing of system calls by name",
        )
        .probed(is_program_supported(ProgramType::TracePoint)),
        thing(
            "raw tracepoints",
            "the same at less cost, and all system calls at once",
            "tracing costs more for each event",
        )
        .probed(is_program_supported(ProgramType::RawTracePoint)),
        kprobes(thing(
            "kprobes",
            "tracing any kernel function",
            "scripts with kprobe: and kretprobe: do not run; use fentry: and tracepoint:",
        )),
        thing(
            "fentry and fexit",
            "tracing kernel functions with typed arguments, at the least cost",
            "scripts with fentry: and fexit: do not run; use kprobe:",
        )
        .probed(is_program_supported(ProgramType::Tracing)),
    ]
}

/// A kernel may know kprobe programs and yet refuse to place probes.
fn kprobes(thing: Thing) -> Finding {
    match is_program_supported(ProgramType::KProbe) {
        Ok(true) => match raw::kprobe() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => thing.is(
                State::Missing,
                "this kernel does not have them (CONFIG_KPROBES)",
            ),
            outcome => thing.probed(outcome.map(|()| true)),
        },
        outcome => thing.probed(outcome),
    }
}
