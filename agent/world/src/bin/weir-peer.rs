//! The peer worker as a program of its own, for tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_world::peer::main()
}
