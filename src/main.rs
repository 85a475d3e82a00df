//! The `scoreline` program: dispatch and exit codes are in [`scoreline::cli`].

fn main() -> std::process::ExitCode {
    scoreline::cli::run()
}
