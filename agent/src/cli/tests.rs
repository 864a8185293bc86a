use clap::{CommandFactory as _, FromArgMatches as _};

use super::*;

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_explains_itself_and_each_of_its_options() {
    for subcommand in Cli::command().get_subcommands() {
        assert!(
            subcommand.get_about().is_some(),
            "{}",
            subcommand.get_name()
        );
        for option in subcommand.get_arguments() {
            assert!(
                option.get_help().is_some(),
                "{} {}",
                subcommand.get_name(),
                option.get_id()
            );
        }
    }
}

#[test]
fn what_prints_prints_json_too() {
    for subcommand in ["check", "status", "services", "cleanup"] {
        for output in ["-ojson", "--output=json", "-otext"] {
            assert!(
                Cli::try_parse_from(["weir", subcommand, output]).is_ok(),
                "{subcommand} {output}"
            );
        }
        assert!(Cli::try_parse_from(["weir", subcommand, "-oyaml"]).is_err());
    }
}

mod run_options {
    use std::path::Path;

    use clap::Args as _;

    use super::*;
    use crate::{cli::run::Options, http::BindAddress, log};

    fn definition() -> clap::Command {
        Options::augment_args(clap::Command::new("run"))
    }

    fn parse(args: &[&str]) -> Result<Options, clap::Error> {
        let matches = definition().try_get_matches_from([&["run"], args].concat())?;
        Options::from_arg_matches(&matches)
    }

    #[test]
    fn defaults_are_kube_proxys() {
        let options = parse(&[]).unwrap();
        assert_eq!(
            options.metrics_bind_address,
            "127.0.0.1:10249".parse().unwrap()
        );
        assert_eq!(
            options.healthz_bind_address,
            "0.0.0.0:10256".parse().unwrap()
        );
        assert_eq!(options.api_socket, Path::new("/run/weir/weir.sock"));
        assert_eq!(options.bpffs, Path::new("/sys/fs/bpf"));
        assert_eq!(options.log_format, log::Format::Text);
        assert_eq!(options.log_level.to_string(), "info");
        assert_eq!(
            (options.kubeconfig, options.manifests, options.cgroup_root),
            (None, None, None)
        );
    }

    #[test]
    fn every_option_is_an_environment_variable_of_the_same_name() {
        let shown = |argument: &&clap::Arg| !argument.is_hide_set();
        for argument in definition().get_arguments().filter(shown) {
            let long = argument.get_long().expect("only long options");
            let variable = format!("WEIR_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().unwrap(), variable.as_str());
        }
    }

    #[test]
    fn there_is_one_source() {
        assert!(parse(&["--kubeconfig", "a"]).is_ok());
        assert!(parse(&["--manifests", "b"]).is_ok());
        let error = parse(&["--kubeconfig", "a", "--manifests", "b"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        for (option, value) in [
            ("--metrics-bind-address", "10249"),
            ("--healthz-bind-address", "everywhere:80"),
            ("--log-format", "xml"),
            ("--log-level", "loud=very"),
        ] {
            let error = parse(&[option, value]).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains(value), "{error}");
        }
        assert_eq!(
            parse(&["--metrics-bind-address", ""])
                .unwrap()
                .metrics_bind_address,
            BindAddress(None)
        );
    }

    #[test]
    fn a_node_without_a_name_is_named_like_its_host_in_lower_case() {
        let mut options = parse(&["--node-name", " Node-A "]).unwrap();
        assert_eq!(options.node_name().unwrap(), "node-a");
        options.node_name = None;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(options.node_name().unwrap(), host.trim().to_lowercase());
    }
}

/// Environment variables belong to a whole process, so a process of its own is asked.
#[test]
fn environment_variables_are_read_and_options_win() {
    let variables = [
        ("WEIR_BPFFS", "/from/variable"),
        ("WEIR_API_SOCKET", "/no/such/socket"),
    ];
    let ask = |args: &[&str]| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cli::tests::in_a_process_of_its_own",
                "--ignored",
                "--nocapture",
            ])
            .env("WEIR_TEST_ARGUMENTS", args.join(" "))
            .envs(variables)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text
    };
    let from_variables = ask(&["weir", "cleanup"]);
    assert!(
        from_variables.contains("/from/variable"),
        "{from_variables}"
    );
    assert!(from_variables.contains("/no/such/socket"));
    let from_option = ask(&["weir", "cleanup", "--bpffs", "/from/option"]);
    assert!(from_option.contains("/from/option") && !from_option.contains("/from/variable"));
}

#[test]
#[ignore = "run by environment_variables_are_read_and_options_win"]
fn in_a_process_of_its_own() {
    let arguments = std::env::var("WEIR_TEST_ARGUMENTS").unwrap();
    println!("{:?}", Cli::try_parse_from(arguments.split(' ')).unwrap());
}
