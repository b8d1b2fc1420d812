//! The release before this one, which has to work together with it. Only a full run has it.

use std::path::PathBuf;

use crate::cached;

/// The program.
const PROGRAM: &str = "TEST_SERVERS_PREVIOUS_RELEASE";
/// Names its commit.
const FILE: &str = include_str!("../../.ci/previous-release");

/// The program of the release before, where `test-servers/fetch --full` has built it or the environment says that it is.
pub(crate) fn program() -> Result<PathBuf, String> {
    let commit = commit();
    let program = cached(PROGRAM, &format!("flywheel/tools/releases/{commit}/flywheel"));
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!(
            "a full run needs the release before this one, commit {commit}, which is not at {}; run \
             `test-servers/fetch --full` (it builds it), or name its program in {PROGRAM}",
            program.display()
        ))
    }
}

fn commit() -> &'static str {
    FILE.lines().find(|line| !line.starts_with('#')).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_a_commit() {
        assert!(commit().len() == 40 && commit().bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", commit());
    }
}
