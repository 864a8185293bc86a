use std::collections::BTreeSet;

use super::*;

fn target() -> Target {
    Target {
        cgroup_root: None,
        bpffs: "/sys/fs/bpf".into(),
    }
}

#[test]
fn whether_weir_can_run_depends_on_what_is_required_alone() {
    let finding = |group, state| {
        Thing {
            name: "x",
            group,
            gives: "",
            costs: "",
        }
        .is(state, "")
    };
    let report = |findings| Report::new(String::new(), findings).can_run;
    assert!(report(vec![
        finding(Group::Tracing, State::Missing),
        finding(Group::Required, State::Degraded),
        finding(Group::Conflicts, State::Unknown),
    ]));
    assert!(!report(vec![finding(Group::Required, State::Missing)]));
    assert!(!report(vec![finding(Group::Required, State::Unknown)]));
}

/// Tests run as root on a kernel that can do everything the agent needs; kprobes may be locked away.
#[test]
fn this_machine_can_run_weir() {
    let report = check(&target());
    for finding in &report.findings {
        if finding.group == Group::Required && finding.name != "bpf file system" {
            assert!(
                matches!(finding.state, State::Ok | State::Degraded),
                "{finding:?}"
            );
        }
        assert!(!finding.costs.is_empty(), "{}", finding.name);
    }
    for name in [
        "tcx",
        "ring buffers",
        "LPM tries",
        "LRU maps",
        "fentry and fexit",
        "raw tracepoints",
        "ending sockets",
    ] {
        let found = report
            .findings
            .iter()
            .find(|finding| finding.name == name)
            .unwrap();
        assert_ne!(found.state, State::Unknown, "{found:?}");
    }
    let names: BTreeSet<_> = report.findings.iter().map(|finding| finding.name).collect();
    assert_eq!(
        names.len(),
        report.findings.len(),
        "every name is used once"
    );
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let report = check(&Target {
        bpffs: dir.path().to_owned(),
        ..target()
    });
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.name == "bpf file system")
        .unwrap();
    assert_eq!(finding.state, State::Missing);
    assert!(finding.found.contains(dir.path().to_str().unwrap()));
    assert!(!report.can_run);
}
