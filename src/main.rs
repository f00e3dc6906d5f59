//! The program: everything is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    rowstream_malloc::keep_small();
    rowstream::cli::main()
}
