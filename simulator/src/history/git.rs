//! Commits, read by the program `git`: it knows every format of a repository, and where one is, it is.
//!
//! Two of its commands run at once. One lists commits with the blobs that each changed, oldest first and parents before
//! children; the other hands out the blobs that are asked for. No diff is made by git, no hook, filter or pager of the
//! repository's configuration runs, nothing is written, and nothing is fetched: a partial clone that lacks something is
//! refused.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::filter::{News, is_generated, is_vendored, says_revert};
use super::{Census, Change, FileChange, HistoryClass, HistoryError, HistoryLimits, HistorySummary, LeftOut, Taker};
use crate::source::Language;

/// What the environment says of other repositories, or of what this one would be looked at through.
const FOREIGN_VARIABLES: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_EXTERNAL_DIFF",
    "GIT_CEILING_DIRECTORIES",
];

/// What a configuration could say otherwise; flags for the same are unknown to older versions.
const SETTINGS: [&str; 4] =
    ["core.fsmonitor=false", "protocol.allow=never", "diff.relative=false", "log.showRoot=true"];

/// Longest message of git that is repeated: its end, where the reason is.
const REASON_BYTES: usize = 400;

/// Starts the description of a commit, and separates its parts, in git's output. File names and descriptions of changes
/// never begin with it.
const MARK: u8 = 1;
const SEPARATOR: char = '\u{2}';

/// A repository that was looked at: it has its whole history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    folder: PathBuf,
    name: String,
}

/// Looks whether `folder` is of a repository with its whole history.
///
/// # Errors
/// [`HistoryError::NoGit`], [`HistoryError::NotARepository`] or [`HistoryError::Shallow`].
pub fn open(folder: &Path) -> Result<Repository, HistoryError> {
    Ok(Repository { folder: folder.to_owned(), name: name(folder)? })
}

impl Repository {
    /// The name of its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the history that ends with the commit that is checked out, oldest first, and hands over every change that
    /// people made by hand.
    ///
    /// # Errors
    /// See [`HistoryError`]; a partial clone that lacks something is refused.
    pub fn read(&self, limits: &HistoryLimits, taker: &mut Taker<'_>) -> Result<HistorySummary, HistoryError> {
        read(&self.folder, &self.name, limits, taker).map_err(|error| match error {
            HistoryError::Git { .. } if is_partial(&self.folder) => HistoryError::Partial(self.folder.clone()),
            error => error,
        })
    }
}

/// Whether git keeps only some of the repository's objects here, and would fetch others when they are asked for.
fn is_partial(repository: &Path) -> bool {
    let settings = r"^(extensions\.partialclone|remote\..*\.promisor)$";
    answer(repository, "config", &["--local", "--get-regexp", settings]).is_ok()
}

fn read(
    repository: &Path,
    name: &str,
    limits: &HistoryLimits,
    taker: &mut Taker<'_>,
) -> Result<HistorySummary, HistoryError> {
    let head = answer(repository, "rev-parse", &["--verify", "--quiet", "HEAD^{commit}"])
        .map_err(|_| HistoryError::Empty(repository.to_owned()))?;
    let count = |flags: &[&str]| -> Result<u64, HistoryError> {
        let text = answer(repository, "rev-list", &[flags, &["--count", head.as_str()]].concat())?;
        text.parse().map_err(|_| HistoryError::Git { command: "rev-list", reason: "the count is no number".to_owned() })
    };
    let (all, found) = (count(&[])?, count(&["--no-merges"])?);
    let mut summary = HistorySummary {
        class: HistoryClass::Commits,
        repository: name.to_owned(),
        head: head.clone(),
        found,
        changes: 0,
        bytes: 0,
        left_out: Census::default(),
    };
    summary.left_out.add(LeftOut::Merge, all.saturating_sub(found));
    summary.left_out.add(LeftOut::OlderCommit, found.saturating_sub(limits.commits));

    let newest = format!("--max-count={}", limits.commits);
    let format = "--format=%x01%H%x02%ct%x02%B";
    let list = [
        "--no-merges",
        "--date-order",
        "--reverse",
        newest.as_str(),
        "--raw",
        "--no-abbrev",
        "-r",
        "-z",
        "--find-renames=100%",
        "--no-color",
        "--no-decorate",
        "--no-notes",
        "--no-show-signature",
        "--no-ext-diff",
        "--no-textconv",
        // What else anybody's configuration says of it.
        "--encoding=UTF-8",
        "--ignore-submodules=none",
        "-O/dev/null",
        format,
        head.as_str(),
        "--",
    ];
    let mut log = Running::start(repository, "log", &list)?;
    let mut blobs = Blobs::start(repository, limits.file_bytes)?;
    let mut news = News::default();
    let mut commits = Commits { output: BufReader::new(log.output()?), held: None };
    while let Some(commit) = commits.next()? {
        let Some(change) = assemble(&commit, limits, &mut blobs, &mut summary)? else { continue };
        if let Some(reason) = news.stale(&change) {
            summary.left_out.add(reason, 1);
            continue;
        }
        summary.changes += 1;
        taker(change, &mut summary.left_out);
    }
    log.finish()?;
    blobs.running.stop();
    Ok(summary)
}

/// The name of a repository, after a look whether it is one with its whole history: that of its folder.
fn name(repository: &Path) -> Result<String, HistoryError> {
    let shallow = answer(repository, "rev-parse", &["--is-shallow-repository"]).map_err(|error| match error {
        HistoryError::Git { reason, .. } => HistoryError::NotARepository { path: repository.to_owned(), reason },
        other => other,
    })?;
    if shallow == "true" {
        return Err(HistoryError::Shallow(repository.to_owned()));
    }
    let top = answer(repository, "rev-parse", &["--show-toplevel"])
        .or_else(|_| answer(repository, "rev-parse", &["--absolute-git-dir"]))?;
    let top = Path::new(&top);
    let folder = if top.ends_with(".git") { top.parent().unwrap_or(top) } else { top };
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(name.strip_suffix(".git").unwrap_or(&name).to_owned())
}

/// What becomes of a commit's files; none when no usable one is left.
fn assemble(
    commit: &Commit,
    limits: &HistoryLimits,
    blobs: &mut Blobs,
    summary: &mut HistorySummary,
) -> Result<Option<Change>, HistoryError> {
    let left_out = &mut summary.left_out;
    if says_revert(&commit.message) {
        left_out.add(LeftOut::Revert, 1);
        return Ok(None);
    }
    if commit.entries.len() > limits.files {
        left_out.add(LeftOut::ManyFiles, 1);
        return Ok(None);
    }
    if summary.bytes >= limits.bytes {
        left_out.add(LeftOut::BytesLimit, 1);
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in &commit.entries {
        let language = match entry.usable() {
            Ok(language) => language,
            Err(reason) => {
                left_out.add(reason, 1);
                continue;
            }
        };
        let sides = match (blobs.text(&entry.before)?, blobs.text(&entry.after)?) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(reason), _) | (_, Err(reason)) => {
                left_out.add(reason, 1);
                continue;
            }
        };
        summary.bytes += (sides.0.len() + sides.1.len()) as u64;
        if is_generated(&entry.path, &sides.0) || is_generated(&entry.path, &sides.1) {
            left_out.add(LeftOut::GeneratedFile, 1);
            continue;
        }
        files.push(FileChange { path: entry.path.clone(), language, before: sides.0, after: sides.1 });
    }
    if files.is_empty() {
        left_out.add(LeftOut::NoUsableFile, 1);
        return Ok(None);
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Some(Change { id: commit.id.clone(), time_seconds: commit.time_seconds, files }))
}

/// A commit as it is listed.
#[derive(Debug, Default)]
struct Commit {
    id: String,
    time_seconds: i64,
    message: String,
    entries: Vec<Entry>,
}

/// A file that a commit changed.
#[derive(Debug)]
struct Entry {
    /// `M` modified, `A` added, `D` deleted, `T` its kind changed, `R100` moved unchanged.
    status: String,
    is_file: bool,
    before: String,
    after: String,
    /// As well as it can be shown where it is no UTF-8.
    path: String,
    is_utf8: bool,
}

impl Entry {
    fn usable(&self) -> Result<Language, LeftOut> {
        let language = Language::of_path(Path::new(&self.path)).ok_or(LeftOut::OtherLanguage)?;
        if is_vendored(&self.path) {
            return Err(LeftOut::VendoredFile);
        }
        match (self.status.as_bytes().first(), self.is_file) {
            // Several names could be shown alike.
            (Some(b'M'), true) if self.is_utf8 => Ok(language),
            (Some(b'R'), _) => Err(LeftOut::MovedFile),
            (Some(b'A' | b'D'), _) => Err(LeftOut::NewOrDeletedFile),
            // A link, a submodule, what became one, or a name that is no text.
            _ => Err(LeftOut::NoText),
        }
    }
}

/// Reads the list of commits, one at a time.
struct Commits<R> {
    output: R,
    /// The description that ended the commit before.
    held: Option<String>,
}

impl<R: std::io::BufRead> Commits<R> {
    fn next(&mut self) -> Result<Option<Commit>, HistoryError> {
        let mut commit: Option<Commit> = None;
        loop {
            let token = match self.held.take() {
                Some(token) => token,
                None => match self.token()? {
                    Some(token) => String::from_utf8_lossy(&token).into_owned(),
                    None => return Ok(commit),
                },
            };
            let token = token.trim_start_matches('\n');
            if token.as_bytes().first() == Some(&MARK) {
                if commit.is_some() {
                    self.held = Some(token.to_owned());
                    return Ok(commit);
                }
                commit = Some(described(&token[1..]).ok_or_else(|| misread("a commit's description"))?);
            } else if let Some(meta) = token.strip_prefix(':') {
                let entry = self.entry(meta)?;
                commit.as_mut().ok_or_else(|| misread("a file before any commit"))?.entries.push(entry);
            } else if !token.is_empty() {
                return Err(misread("the list of files"));
            }
        }
    }

    /// `100644 100644 ID ID STATUS`, then the path, of a move two of them.
    fn entry(&mut self, meta: &str) -> Result<Entry, HistoryError> {
        let parts: Vec<&str> = meta.split(' ').collect();
        let [mode_before, mode_after, before, after, status] = parts[..] else {
            return Err(misread("a file's description"));
        };
        let mut path = self.token()?.ok_or_else(|| misread("a file's name"))?;
        if status.starts_with(['R', 'C']) {
            path = self.token()?.ok_or_else(|| misread("a file's new name"))?;
        }
        Ok(Entry {
            status: status.to_owned(),
            is_file: mode_before.starts_with("100") && mode_after.starts_with("100"),
            before: before.to_owned(),
            after: after.to_owned(),
            is_utf8: std::str::from_utf8(&path).is_ok(),
            path: String::from_utf8_lossy(&path).into_owned(),
        })
    }

    /// Up to the next NUL.
    fn token(&mut self) -> Result<Option<Vec<u8>>, HistoryError> {
        let mut bytes = Vec::new();
        self.output.read_until(0, &mut bytes).map_err(|error| broken("log", &error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(Some(bytes))
    }
}

fn described(text: &str) -> Option<Commit> {
    let mut parts = text.splitn(3, SEPARATOR);
    let (id, time, message) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Commit {
        id: id.to_owned(),
        time_seconds: time.parse().ok()?,
        message: message.to_owned(),
        entries: Vec::new(),
    })
}

fn misread(what: &str) -> HistoryError {
    HistoryError::Git { command: "log", reason: format!("{what} is not as expected") }
}

fn broken(command: &'static str, error: &std::io::Error) -> HistoryError {
    HistoryError::Git { command, reason: error.to_string() }
}

/// Hands out blobs by their ids.
struct Blobs {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    most_bytes: u64,
}

impl Blobs {
    fn start(repository: &Path, most_bytes: u64) -> Result<Self, HistoryError> {
        let mut running = Running::start(repository, "cat-file", &["--batch"])?;
        let input = running.child.stdin.take().ok_or_else(|| no_pipe("cat-file"))?;
        let output = BufReader::new(running.output()?);
        Ok(Self { running, input, output, most_bytes })
    }

    /// A blob's text, or why there is none.
    fn text(&mut self, id: &str) -> Result<Result<Arc<str>, LeftOut>, HistoryError> {
        let failed = |error: std::io::Error| broken("cat-file", &error);
        if let Err(error) = self.input.write_all(format!("{id}\n").as_bytes()).and_then(|()| self.input.flush()) {
            // Nobody reads any longer: what it said at its end is more than that.
            return Err(self.running.ended().err().unwrap_or_else(|| failed(error)));
        }
        let mut header = String::new();
        self.output.read_line(&mut header).map_err(failed)?;
        let parts: Vec<&str> = header.trim_end().split(' ').collect();
        let size: u64 = match parts[..] {
            [_, "missing"] => {
                return Err(HistoryError::Git { command: "cat-file", reason: format!("{id} is missing") });
            }
            [_, "blob", size] => size.parse().map_err(|_| self.answered_otherwise())?,
            [""] => return Err(self.running.ended().err().unwrap_or_else(|| self.answered_otherwise())),
            _ => return Err(self.answered_otherwise()),
        };
        // The line break behind the content belongs to the answer.
        let mut content = Read::by_ref(&mut self.output).take(size + 1);
        if size > self.most_bytes {
            std::io::copy(&mut content, &mut std::io::sink()).map_err(failed)?;
            return Ok(Err(LeftOut::LargeFile));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        content.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != size + 1 {
            return Err(self.answered_otherwise());
        }
        bytes.pop();
        Ok(plain_text(bytes).ok_or(LeftOut::NoText))
    }

    fn answered_otherwise(&self) -> HistoryError {
        HistoryError::Git { command: "cat-file", reason: "the answer is not as expected".to_owned() }
    }
}

/// Text as tasks are made of: UTF-8 whose lines end with line feeds alone; a NUL means that this is no text.
pub(super) fn plain_text(bytes: Vec<u8>) -> Option<Arc<str>> {
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(['\r', '\0'])).then(|| text.into())
}

/// One of git's commands at work. It ends with this value.
struct Running {
    child: Child,
    command: &'static str,
    /// Reads what it complains of, so that it never waits for that.
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(repository: &Path, command: &'static str, arguments: &[&str]) -> Result<Self, HistoryError> {
        let input = if command == "cat-file" { Stdio::piped() } else { Stdio::null() };
        let mut child = program(repository, command, arguments)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(HistoryError::NoGit)?;
        let said = child.stderr.take().map(|pipe| std::thread::spawn(move || last_bytes(pipe)));
        Ok(Self { child, command, said })
    }

    fn output(&mut self) -> Result<ChildStdout, HistoryError> {
        self.child.stdout.take().ok_or_else(|| no_pipe(self.command))
    }

    /// Waits for its end, which must be a good one.
    fn finish(mut self) -> Result<(), HistoryError> {
        self.ended()
    }

    /// Waits for its end, and says what was wrong with it.
    fn ended(&mut self) -> Result<(), HistoryError> {
        let status = self.child.wait().map_err(|error| broken(self.command, &error))?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let said = Some(reason(&said)).filter(|said| !said.is_empty()).unwrap_or_else(|| "it says nothing".to_owned());
        let reason = format!("{said} ({status}); `git fsck` says what is damaged");
        Err(HistoryError::Git { command: self.command, reason })
    }

    fn stop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last bytes of what is written, up to its end.
fn last_bytes(mut pipe: impl Read) -> Vec<u8> {
    let (mut last, mut some) = (Vec::new(), [0; 4096]);
    // What can not be read is not repeated; the exit status tells.
    while let Ok(count @ 1..) = pipe.read(&mut some) {
        last.extend_from_slice(some.get(..count).unwrap_or_default());
        let surplus = last.len().saturating_sub(REASON_BYTES);
        last.drain(..surplus);
    }
    last
}

/// The end of what git said, as a part of a sentence.
fn reason(said: &[u8]) -> String {
    let last = said.get(said.len().saturating_sub(REASON_BYTES)..).unwrap_or_default();
    String::from_utf8_lossy(last).trim().trim_start_matches("fatal: ").to_owned()
}

fn no_pipe(command: &'static str) -> HistoryError {
    HistoryError::Git { command, reason: "it has no pipe".to_owned() }
}

/// A command that reads the repository and nothing around it, and speaks as programs expect.
fn program(repository: &Path, command: &str, arguments: &[&str]) -> Command {
    let mut program = Command::new("git");
    for variable in FOREIGN_VARIABLES {
        program.env_remove(variable);
    }
    program
        .env("LC_ALL", "C")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        // No protocol at all: older versions know no other way that a repository's configuration can not undo.
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .arg("-C")
        .arg(repository)
        .arg("--no-pager")
        .args(SETTINGS.into_iter().flat_map(|setting| ["-c", setting]))
        .arg(command)
        .args(arguments);
    program
}

/// What a short command says, without the last line break.
fn answer(repository: &Path, command: &'static str, arguments: &[&str]) -> Result<String, HistoryError> {
    let output = program(repository, command, arguments).stdin(Stdio::null()).output().map_err(HistoryError::NoGit)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    Err(HistoryError::Git { command, reason: reason(&output.stderr) })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn commits(text: &str) -> Result<Vec<Commit>, HistoryError> {
        let mut commits = Commits { output: text.as_bytes(), held: None };
        let mut all = Vec::new();
        while let Some(commit) = commits.next()? {
            all.push(commit);
        }
        Ok(all)
    }

    #[test]
    fn the_end_of_what_git_says_is_kept() {
        let long = format!("fatal: {}the reason\n", "noise ".repeat(2_000));
        assert_eq!(last_bytes(long.as_bytes()).len(), REASON_BYTES);
        for said in [last_bytes(long.as_bytes()), long.clone().into_bytes()] {
            let reason = reason(&said);
            assert!(reason.ends_with("the reason") && reason.len() <= REASON_BYTES, "{reason}");
        }
        assert_eq!(reason(b"fatal: not a git repository\n"), "not a git repository");
    }

    #[test]
    fn no_git_process_may_use_a_protocol_or_look_elsewhere() {
        let program = program(Path::new("r"), "log", &[]);
        let of = |name: &str| program.get_envs().find(|(key, _)| *key == name).map(|(_, value)| value);
        assert_eq!(of("GIT_ALLOW_PROTOCOL"), Some(Some(OsStr::new(""))));
        assert_eq!(of("GIT_NO_LAZY_FETCH"), Some(Some(OsStr::new("1"))));
        for variable in FOREIGN_VARIABLES {
            assert_eq!(of(variable), Some(None), "{variable}");
        }
    }

    #[test]
    fn the_list_of_commits_is_read_as_git_writes_it() {
        let text = "\u{1}aa\u{2}100\u{2}one\n\0\0\n:000000 100644 00 11 A\0a.rs\0\0\u{1}bb\u{2}200\u{2}move\nbody\n\0\0\n\
                    :100644 100644 11 11 R100\0a.rs\0b.rs\0:100644 100755 11 22 M\0c d.rs\0\0\u{1}cc\u{2}300\u{2}empty\n\0";
        let read = commits(text).unwrap();
        let short: Vec<_> = read.iter().map(|one| (one.id.as_str(), one.time_seconds, one.entries.len())).collect();
        assert_eq!(short, [("aa", 100, 1), ("bb", 200, 2), ("cc", 300, 0)]);
        assert_eq!(read[1].message, "move\nbody\n");
        let [moved, changed] = &read[1].entries[..] else { panic!("{read:?}") };
        assert_eq!((moved.path.as_str(), moved.usable()), ("b.rs", Err(LeftOut::MovedFile)));
        assert_eq!((changed.path.as_str(), changed.usable()), ("c d.rs", Ok(Language::Rust)));
        assert_eq!(read[0].entries[0].usable(), Err(LeftOut::NewOrDeletedFile));
    }

    #[test]
    fn what_git_does_not_write_is_refused() {
        for text in ["hello\0", ":100644 100644 1 2 M\0a.rs\0", "\u{1}aa\0", "\u{1}a\u{2}1\u{2}m\0:1 2 3\0a\0"] {
            assert!(matches!(commits(text), Err(HistoryError::Git { command: "log", .. })), "{text:?}");
        }
    }
}
