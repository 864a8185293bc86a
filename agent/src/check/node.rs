//! The machine around the kernel: file systems, permissions, namespaces, settings.

use std::{fs, thread};

use rustix::{
    fs::statfs,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{Finding, Group, State, Target, Thing, kernel};
use crate::{
    attach::CgroupRoot,
    capabilities::{BPF, Capabilities, Capability, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE},
};

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Inode number of the machine's first cgroup namespace (`PROC_CGROUP_INIT_INO` of `include/linux/proc_ns.h`).
const INITIAL_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";
/// The same for process ids (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(super) fn findings(target: &Target) -> Vec<Finding> {
    let mut findings = vec![version(), cgroup(target), bpffs(target)];
    findings.extend(capabilities());
    findings.extend([namespaces(), btf(), jit(), ipv6()]);
    findings
}

fn version() -> Finding {
    let thing = Thing {
        name: "kernel",
        group: Group::General,
        gives: "everything Weir can use, from 6.6 on",
        costs: "what an older kernel lacks is listed here, thing by thing; distributions backport, so trying counts",
    };
    match kernel::version() {
        Some(version) if version >= kernel::WHOLE => thing.is(State::Ok, ""),
        Some(_) => thing.is(State::Degraded, kernel::name()),
        None => thing.is(State::Unknown, kernel::name()),
    }
}

fn cgroup(target: &Target) -> Finding {
    let thing = Thing {
        name: "cgroup v2",
        group: Group::Required,
        gives: "the place where connections of pods and host are translated",
        costs: "Weir cannot run. Mount one: mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1. \
                In a container, mount the node's and name it with --cgroup-root",
    };
    match CgroupRoot::open(target.cgroup_root.as_deref()) {
        Err(error) => thing.is(State::Missing, format!("{error:#}")),
        Ok(root) => {
            let inside = fs::read_link("/proc/self/ns/cgroup")
                .is_ok_and(|namespace| namespace.as_os_str() != INITIAL_CGROUP_NAMESPACE);
            let path = root.path.display();
            if inside && target.cgroup_root.is_none() {
                let found = format!(
                    "{path}, seen from inside a cgroup namespace: perhaps only a part of the node's tree, and then only \
                     processes below it are served"
                );
                thing.is(State::Degraded, found)
            } else {
                thing.is(State::Ok, path.to_string())
            }
        }
    }
}

fn bpffs(target: &Target) -> Finding {
    let thing = Thing {
        name: "bpf file system",
        group: Group::Required,
        gives: "tables and programs that outlive the agent",
        costs: "Weir cannot run. Mount one: mount -t bpf bpf /sys/fs/bpf, or name it with --bpffs",
    };
    let path = target.bpffs.display();
    match statfs(&target.bpffs) {
        Ok(found) if u64::try_from(found.f_type) == Ok(BPF_FS_MAGIC) => {
            thing.is(State::Ok, path.to_string())
        }
        Ok(_) => thing.is(State::Missing, format!("{path} is in another file system")),
        Err(error) => thing.is(State::Missing, format!("{path}: {error}")),
    }
}

/// Whether this process has the capabilities that loading any program takes.
pub(super) fn may_load_programs() -> bool {
    Capabilities::own().is_some_and(|set| {
        [BPF, NET_ADMIN, PERFMON]
            .iter()
            .all(|capability| set.has(*capability))
    })
}

fn capabilities() -> Vec<Finding> {
    let own = Capabilities::own();
    let wanted = [
        (
            BPF,
            Thing {
                name: "CAP_BPF",
                group: Group::Required,
                gives: "loading programs and making tables",
                costs: "Weir cannot run. Run it as root, or with the capabilities of the manifests",
            },
        ),
        (
            NET_ADMIN,
            Thing {
                name: "CAP_NET_ADMIN",
                group: Group::Required,
                gives: "attaching programs to the network",
                costs: "Weir cannot run. Run it as root, or with the capabilities of the manifests",
            },
        ),
        (
            SYS_ADMIN,
            Thing {
                name: "CAP_SYS_ADMIN",
                group: Group::General,
                gives: "entering the network namespaces of pods; on some kernels, replacing what others attached",
                costs: "the host side of a pod's veth is not found, so nothing that works on packets applies to pods",
            },
        ),
        (
            SYS_PTRACE,
            Thing {
                name: "CAP_SYS_PTRACE",
                group: Group::General,
                gives: "finding the network namespaces of other users' processes",
                costs: "pods that run as another user are not found by their processes",
            },
        ),
        (
            PERFMON,
            Thing {
                name: "CAP_PERFMON",
                group: Group::Tracing,
                gives: "attaching to kernel functions and tracepoints, reading kernel memory",
                costs: "nothing can be traced",
            },
        ),
    ];
    let judge = |(capability, thing): (Capability, Thing)| match own {
        Some(set) if set.has(capability) => thing.is(State::Ok, ""),
        Some(_) => thing.is(State::Missing, "this process does not have it"),
        None => thing.is(State::Unknown, "/proc/self/status cannot be read"),
    };
    wanted.into_iter().map(judge).collect()
}

fn namespaces() -> Finding {
    let thing = Thing {
        name: "network namespaces",
        group: Group::Packets,
        gives: "finding the host side of each pod's veth without asking the CNI",
        costs: "nothing that works on packets applies to pods. In a container: hostPID, CAP_SYS_ADMIN and CAP_SYS_PTRACE",
    };
    // Entering its own namespace needs the same permission as entering another's and changes nothing.
    let enter = || {
        let own = fs::File::open("/proc/thread-self/ns/net")?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&own),
            Some(LinkNameSpaceType::Network),
        )?;
        Ok::<_, std::io::Error>(())
    };
    let entered = thread::spawn(enter).join();
    match entered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return thing.is(State::Missing, format!("cannot enter one: {error}")),
        Err(_) => return thing.is(State::Unknown, "the probe failed"),
    }
    let inside = fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace.as_os_str() != INITIAL_PID_NAMESPACE);
    if inside {
        return thing.is(
            State::Missing,
            "only the processes of this container can be seen",
        );
    }
    let (seen, denied) = processes();
    let found = format!("{} of {seen} processes can be looked into", seen - denied);
    if denied * 2 > seen {
        return thing.is(State::Missing, found);
    }
    thing.is(State::Ok, if denied == 0 { String::new() } else { found })
}

/// How many processes there are, and of how many the network namespace may not be known.
fn processes() -> (usize, usize) {
    let mut seen = 0;
    let mut denied = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !is_process {
            continue;
        }
        match fs::read_link(entry.path().join("ns/net")) {
            Ok(_) => seen += 1,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                seen += 1;
                denied += 1;
            }
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    (seen, denied)
}

fn btf() -> Finding {
    let thing = Thing {
        name: "kernel types (BTF)",
        group: Group::Tracing,
        gives: "programs that read the kernel's structures on any kernel",
        costs: "function entry and exit cannot be traced by type (CONFIG_DEBUG_INFO_BTF)",
    };
    match aya::Btf::from_sys_fs() {
        Ok(_) => thing.is(State::Ok, "/sys/kernel/btf/vmlinux"),
        Err(error) => thing.is(State::Missing, error.to_string()),
    }
}

fn jit() -> Finding {
    let thing = Thing {
        name: "BPF compiler (JIT)",
        group: Group::General,
        gives: "programs at the speed of machine code",
        costs: "programs are interpreted, several times slower: sysctl -w net.core.bpf_jit_enable=1",
    };
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(value) if value.trim() == "0" => thing.is(State::Degraded, "switched off"),
        Ok(_) => thing.is(State::Ok, ""),
        // Kernels with CONFIG_BPF_JIT_ALWAYS_ON may hide the switch, and namespaces other than the first do.
        Err(error) => thing.is(State::Unknown, format!("net.core.bpf_jit_enable: {error}")),
    }
}

fn ipv6() -> Finding {
    let thing = Thing {
        name: "IPv6",
        group: Group::General,
        gives: "services with IPv6 addresses",
        costs: "nothing, unless the cluster has IPv6 or dual-stack services",
    };
    match fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(value) if value.trim() == "0" => thing.is(State::Ok, ""),
        Ok(_) => thing.is(
            State::Missing,
            "switched off (net.ipv6.conf.all.disable_ipv6)",
        ),
        Err(_) => thing.is(State::Missing, "not in this kernel"),
    }
}
