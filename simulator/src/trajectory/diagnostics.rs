//! Slips of the hand that a real compiler reports, and their repair.
//!
//! A slip is a change of one place: a name with two letters exchanged, a token left out. Whether it is one, and what is
//! said of it, is up to the compiler: it reads the file with the slip and without, and what it reports only with the
//! slip, at its line or the next, is the diagnostic. Files are compiled alone, so that whatever else a compiler misses
//! there (other modules, packages) it misses both times. Nothing of the code is run.

use crate::error::{Result, SimulatorError};
use crate::random::Dice;
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::outline::{Defined, Role, is_plain_name};
use crate::trajectory::patterns::Search;
use crate::trajectory::repository::ParsedFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What a compiler says of a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The compiler and its version, as it names itself.
    pub compiler: String,
    /// The compiler's own code, as `E0425`, or the kind of error, as `SyntaxError`; none when it gives none.
    pub code: Option<String>,
    /// What it says.
    pub message: String,
    /// Line of the file, from 1.
    pub line: u64,
    /// Column of the line, from 1, as the compiler counts it.
    pub column: u64,
}

/// A compiler that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// `rustc`, for Rust.
    Rustc,
    /// The interpreter `python3`, which compiles and does not run, for Python.
    Python,
}

/// A name that no compiler has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no compiler {0:?} to ask; there are rustc and python")]
pub struct NoSuchCompiler(pub String);

impl FromStr for Compiler {
    type Err = NoSuchCompiler;

    fn from_str(name: &str) -> std::result::Result<Self, NoSuchCompiler> {
        match name {
            "rustc" => Ok(Self::Rustc),
            "python" => Ok(Self::Python),
            _ => Err(NoSuchCompiler(name.to_owned())),
        }
    }
}

/// A compiler that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCompiler {
    compiler: Compiler,
    version: String,
}

/// How long a compiler may take for one file; one that takes longer says nothing of it.
const LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Slips that are tried in a file for each that is wanted: not every one is an error.
const TRIES: usize = 4;
/// The language edition for files whose package is not looked at.
const EDITION: &str = "2021";
/// Prints what the interpreter says of the file named first, as a list of one JSON object, or of none.
const PYTHON: &str = "\
import json, sys
found = []
try:
    with open(sys.argv[1], 'rb') as file:
        compile(file.read(), 'checked', 'exec', dont_inherit=True)
except SyntaxError as error:
    found = [{'code': type(error).__name__, 'message': error.msg, 'line': error.lineno or 1, 'column': error.offset or 1}]
except ValueError:
    pass
json.dump(found, sys.stdout)
";

impl Compiler {
    fn program(self) -> &'static str {
        match self {
            Self::Rustc => "rustc",
            Self::Python => "python3",
        }
    }

    /// The language that it compiles.
    #[must_use]
    pub fn language(self) -> CodeLanguage {
        match self {
            Self::Rustc => CodeLanguage::Rust,
            Self::Python => CodeLanguage::Python,
        }
    }

    /// Asks it for its version.
    ///
    /// # Errors
    /// When it does not start, or fails.
    pub fn find(self) -> Result<FoundCompiler> {
        let program = self.program();
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|source| SimulatorError::NoCompiler { program, source })?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || version.is_empty() {
            let source = std::io::Error::other(format!("--version ended with {}", output.status));
            return Err(SimulatorError::NoCompiler { program, source });
        }
        Ok(FoundCompiler { compiler: self, version })
    }
}

/// A line of `rustc --error-format=json`, as far as it is read.
#[derive(Deserialize)]
struct RustcLine {
    message: String,
    code: Option<RustcCode>,
    level: String,
    spans: Vec<RustcSpan>,
}

#[derive(Deserialize)]
struct RustcCode {
    code: String,
}

#[derive(Deserialize)]
struct RustcSpan {
    is_primary: bool,
    line_start: u64,
    column_start: u64,
}

#[derive(Deserialize)]
struct PythonError {
    code: String,
    message: String,
    line: u64,
    column: u64,
}

impl FoundCompiler {
    /// How it names itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The errors of a text; none at all when the compiler takes too long, crashes or says nothing that can be read.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn check(&self, text: &str) -> Result<Option<Vec<Diagnostic>>> {
        let program = self.compiler.program();
        let failed = |source| SimulatorError::NoCompiler { program, source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let (source, report) = (folder.path().join("checked.src"), folder.path().join("report"));
        std::fs::write(&source, text).map_err(failed)?;
        let out = File::create(&report).map_err(failed)?;
        let mut command = self.command(&source, folder.path());
        match self.compiler {
            Compiler::Rustc => command.stdout(Stdio::null()).stderr(out),
            Compiler::Python => command.stdout(out).stderr(Stdio::null()),
        };
        let mut child = command.current_dir(folder.path()).stdin(Stdio::null()).spawn().map_err(failed)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if started.elapsed() > LIMIT {
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let report = std::fs::read(&report).map_err(failed)?;
        Ok(self.told(status, &report))
    }

    /// What a compiler that ended with `status` reported; none when it crashed or its report can not be read.
    fn told(&self, status: ExitStatus, report: &[u8]) -> Option<Vec<Diagnostic>> {
        let is_done = match self.compiler {
            // 1: it found errors. A crash ends with another number or a signal.
            Compiler::Rustc => matches!(status.code(), Some(0 | 1)),
            Compiler::Python => status.success(),
        };
        if !is_done {
            return None;
        }
        self.read(std::str::from_utf8(report).ok()?).ok()
    }

    fn command(&self, source: &Path, folder: &Path) -> Command {
        let mut command = Command::new(self.compiler.program());
        match self.compiler {
            Compiler::Rustc => {
                let flags = ["--crate-type=lib", "--crate-name=checked", "--emit=metadata", "--error-format=json"];
                command.args(flags).arg("--edition").arg(EDITION).arg("--out-dir").arg(folder).arg(source);
            }
            // Isolated: neither the environment nor the folder brings modules in.
            Compiler::Python => {
                command.args(["-I", "-c", PYTHON]).arg(source);
            }
        }
        command
    }

    fn read(&self, report: &str) -> serde_json::Result<Vec<Diagnostic>> {
        let compiler = || self.version.clone();
        if self.compiler == Compiler::Python {
            let errors: Vec<PythonError> = serde_json::from_str(report)?;
            let told = |PythonError { code, message, line, column }| Diagnostic {
                compiler: compiler(),
                code: Some(code),
                message,
                line,
                column,
            };
            return Ok(errors.into_iter().map(told).collect());
        }
        let mut found = Vec::new();
        // What is no JSON is a crash of the compiler's, told in plain text.
        for line in report.lines().filter(|line| line.starts_with('{')) {
            let RustcLine { message, code, level, spans } = serde_json::from_str(line)?;
            let place = spans.iter().find(|span| span.is_primary);
            if let Some(RustcSpan { line_start, column_start, .. }) = place.filter(|_| level == "error") {
                let (line, column) = (*line_start, *column_start);
                found.push(Diagnostic {
                    compiler: compiler(),
                    code: code.map(|code| code.code),
                    message,
                    line,
                    column,
                });
            }
        }
        Ok(found)
    }
}

/// One place of a file and what a slip of the hand leaves there.
struct Slip {
    range: Range<usize>,
    before: String,
    what: String,
}

/// `name` with two neighbouring letters exchanged, not the first.
fn misspelled(name: &str, dice: &mut Dice) -> Option<String> {
    let mut letters: Vec<char> = name.chars().collect();
    let places: Vec<usize> =
        (1..letters.len().saturating_sub(1)).filter(|at| letters[*at] != letters[at + 1]).collect();
    let at = *dice.pick(&places)?;
    letters.swap(at, at + 1);
    Some(letters.into_iter().collect())
}

fn slips(search: &Search<'_>, file: &ParsedFile, dice: &mut Dice) -> Vec<Slip> {
    let mut slips = Vec::new();
    if file.language() == CodeLanguage::Rust {
        let is_own = |name: &str| {
            let known = search.repository.known(name).and_then(|known| Some((known.definition()?, known)));
            known.is_some_and(|(place, known)| {
                place.file == search.file && known.definitions.iter().all(|(_, defined)| *defined == Defined::Function)
            })
        };
        for one in file.outline.names.iter().filter(|one| one.role == Role::Called) {
            let name = file.slice(one.range());
            if name.len() >= 5
                && is_plain_name(name)
                && is_own(name)
                && let Some(before) = misspelled(name, dice).filter(|before| !search.repository.has_word(before))
            {
                slips.push(Slip { range: one.range(), what: format!("{before} is meant to be {name}"), before });
            }
        }
    }
    let ends: &[char] = if file.language() == CodeLanguage::Python { &[':', ')'] } else { &[';', ')'] };
    let mut spoken = file.outline.spoken.iter().peekable();
    let mut start = 0;
    for line in file.text.split_inclusive('\n') {
        let written = line.trim_end();
        let end = start + written.len();
        while spoken.peek().is_some_and(|range| range.end < end) {
            spoken.next();
        }
        let is_spoken = spoken.peek().is_some_and(|range| range.start < end);
        if let Some(last) = written.chars().next_back().filter(|last| ends.contains(last) && !is_spoken) {
            let what = format!("a {last} is missing");
            slips.push(Slip { range: end - 1..end, before: String::new(), what });
        }
        start += line.len();
    }
    slips
}

/// A slip that a compiler reports.
pub(crate) struct Reported {
    pub(crate) range: Range<usize>,
    pub(crate) before: String,
    pub(crate) detail: String,
    pub(crate) diagnostic: Diagnostic,
}

/// The slips of a file that its compiler reports, as many as may begin in it.
///
/// # Errors
/// When the compiler can not be started.
pub(crate) fn reported(search: &Search<'_>, compilers: &[FoundCompiler]) -> Result<Vec<Reported>> {
    let mut found = Vec::new();
    let Some(file) = search.repository.files.get(search.file).filter(|file| file.is_whole) else { return Ok(found) };
    let Some(compiler) = compilers.iter().find(|one| one.compiler.language() == file.language()) else {
        return Ok(found);
    };
    let label = format!("{} {} diagnostics", search.repository.name, file.file.path);
    let mut dice = Dice::new(search.seed, &label, &[]);
    let mut slips = slips(search, file, &mut dice);
    dice.shuffle(&mut slips);
    if slips.is_empty() {
        return Ok(found);
    }
    let Some(known) = compiler.check(&file.text)? else { return Ok(found) };
    let known: BTreeSet<(Option<String>, String)> = known.into_iter().map(|one| (one.code, one.message)).collect();
    for Slip { range, before, what } in slips.into_iter().take(search.per_file.saturating_mul(TRIES)) {
        let mut text = file.text.to_string();
        text.replace_range(range.clone(), &before);
        let line = 1 + file.slice(0..range.start).matches('\n').count() as u64;
        let told = compiler.check(&text)?.unwrap_or_default();
        let new = told.into_iter().find(|one| {
            (line..=line + 1).contains(&one.line) && !known.contains(&(one.code.clone(), one.message.clone()))
        });
        if let Some(diagnostic) = new {
            found.push(Reported { range, before, detail: what, diagnostic });
        }
        if found.len() == search.per_file {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_the_compilers_write_them() {
        let of = |compiler| FoundCompiler { compiler, version: "1".to_owned() };
        let line = "{\"$message_type\":\"diagnostic\",\"message\":\"cannot find function `opne` in this scope\",\"code\":{\"code\":\
                    \"E0425\",\"explanation\":null},\"level\":\"error\",\"spans\":[{\"file_name\":\"x\",\"byte_start\":0,\"byte_end\":4,\
                    \"line_start\":5,\"column_start\":20,\"is_primary\":true}],\"children\":[],\"rendered\":null}";
        let warning = line.replace("\"level\":\"error\"", "\"level\":\"warning\"");
        let found = of(Compiler::Rustc).read(&format!("{line}\n{warning}\nthread panicked\n")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].code.as_deref(), found[0].line, found[0].column), (Some("E0425"), 5, 20));
        let python = "[{\"code\": \"SyntaxError\", \"message\": \"invalid syntax\", \"line\": 1, \"column\": 7}]";
        assert_eq!(of(Compiler::Python).read(python).unwrap()[0].message, "invalid syntax");
        assert!(of(Compiler::Python).read("[]").unwrap().is_empty());
        assert!(of(Compiler::Python).read("Traceback").is_err());
    }

    #[test]
    fn a_compiler_that_crashes_or_says_nothing_readable_says_nothing() {
        use std::os::unix::process::ExitStatusExt as _;

        let (done, errors, panicked, killed) = (0, 1 << 8, 101 << 8, 9);
        let of = |compiler, status, report: &str| {
            let found = FoundCompiler { compiler, version: "1".to_owned() };
            found.told(ExitStatus::from_raw(status), report.as_bytes()).map(|told| told.len())
        };
        assert_eq!([done, errors].map(|status| of(Compiler::Rustc, status, "")), [Some(0), Some(0)]);
        assert_eq!([panicked, killed].map(|status| of(Compiler::Rustc, status, "")), [None, None]);
        assert_eq!(of(Compiler::Rustc, errors, "{\"message\": 1}"), None);
        assert_eq!(of(Compiler::Python, done, "[]"), Some(0));
        assert_eq!([of(Compiler::Python, done, ""), of(Compiler::Python, errors, "[]")], [None, None]);
        let rustc = FoundCompiler { compiler: Compiler::Rustc, version: "1".to_owned() };
        assert_eq!(rustc.told(ExitStatus::from_raw(errors), b"{\xff}"), None);
    }

    #[test]
    fn a_misspelled_name_is_another_of_the_same_letters() {
        let mut dice = Dice::new(1, "slips", &[]);
        for _ in 0..50 {
            let wrong = misspelled("open_store", &mut dice).unwrap();
            let sorted = |name: &str| {
                let mut letters: Vec<char> = name.chars().collect();
                letters.sort_unstable();
                letters
            };
            assert!(
                wrong != "open_store" && wrong.starts_with('o') && sorted(&wrong) == sorted("open_store"),
                "{wrong}"
            );
        }
        assert_eq!(misspelled("aaaa", &mut dice), None);
    }

    #[test]
    fn the_compiler_that_builds_this_finds_a_slip() {
        let rustc = Compiler::Rustc.find().unwrap();
        let clean = rustc.check("pub fn open_store() -> u8 {\n    1\n}\n").unwrap().unwrap();
        assert!(clean.is_empty(), "{clean:?}");
        let told = rustc.check("pub fn open_store() -> u8 {\n    opne_store()\n}\n").unwrap().unwrap();
        assert_eq!((told[0].code.as_deref(), told[0].line), (Some("E0425"), 2));
        assert!(told[0].compiler.starts_with("rustc "));
    }
}
