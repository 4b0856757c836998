use crate::Case;
pub const CASES: &[Case] = &[];
pub fn hold() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
