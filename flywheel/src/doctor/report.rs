//! What was found, for people and for programs.

use std::process::ExitCode;

use serde_json::json;
use service::finding::{Finding, Verdict};

use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::table::{print as print_line, print_json};

/// Exit code when something failed.
const FAILED: u8 = 2;

/// Prints all findings. The exit code says whether something failed.
pub(super) fn print(findings: &[Finding], list: &ListArgs) -> Result<ExitCode, Failure> {
    let count = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (ok, warnings, failed) = (count(Verdict::Ok), count(Verdict::Warning), count(Verdict::Failed));
    if list.json {
        print_json(&json!({ "checks": findings, "ok": ok, "warnings": warnings, "failed": failed }))?;
    } else {
        let summary = format!("{} checks: {ok} ok, {warnings} warnings, {failed} failed", findings.len());
        print_line(&format!("{}\n{summary}", text(findings)))?;
    }
    Ok(if failed > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// A line for each finding, and one for what to do about it.
fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
        };
        // What others say (a server, the system) may be of several lines.
        let says = finding.says.split_whitespace().collect::<Vec<_>>().join(" ");
        text += &format!("{verdict:<7}  {:<width$}  {says}\n", finding.check);
        if let Some(advice) = &finding.advice {
            text += &format!("{:7}  {:width$}  -> {advice}\n", "", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_its_line_and_what_to_do_one_below() {
        let findings = [
            Finding::ok("a.b", "it is well"),
            Finding::warning("long.check", "it is\nnot so well", "look at it"),
            Finding::failed("c.d", "it is broken", "mend it"),
        ];
        insta::assert_snapshot!(text(&findings), @r"
        ok       a.b         it is well
        warning  long.check  it is not so well
                             -> look at it
        FAILED   c.d         it is broken
                             -> mend it
        ");
    }
}
