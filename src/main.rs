//! The `mpio` program: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    mpio::cli::main()
}
