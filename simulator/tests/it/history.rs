//! Histories of real repositories, made by git in a temporary directory.

use std::path::Path;
use std::process::Command;

use simulator::history::hunks::change_hunks;
use simulator::history::points::{EditPoint, PointSettings, points};
use simulator::history::{Census, Change, HistoryError, HistoryLimits, HistorySummary, LeftOut, git, releases};

/// A repository whose commits lie a minute apart.
struct Repository {
    folder: tempfile::TempDir,
    minutes: u32,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap(), minutes: 0 };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn git(&self, arguments: &[&str]) {
        let date = format!("2026-01-02T{:02}:{:02}:00Z", self.minutes / 60, self.minutes % 60);
        let output = Command::new("git")
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs([("GIT_AUTHOR_DATE", date.as_str()), ("GIT_COMMITTER_DATE", date.as_str())])
            .args(["-c", "user.name=ada", "-c", "user.email=ada@example.org"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn commit(&mut self, message: &str) {
        self.minutes += 1;
        self.git(&["add", "--all", "."]);
        self.git(&["commit", "--quiet", "--message", message]);
    }
}

fn read(path: &Path, limits: &HistoryLimits) -> Result<(Vec<Change>, HistorySummary), HistoryError> {
    let mut changes = Vec::new();
    let summary = git::open(path)?.read(limits, &mut |change, _| changes.push(change))?;
    Ok((changes, summary))
}

/// Twenty lines that call `name`.
fn code(name: &str) -> String {
    (0..20).map(|number| format!("let a{number} = {name}({number});\n")).collect()
}

fn left_out(summary: &HistorySummary) -> Vec<(LeftOut, u64)> {
    summary.left_out.counts().collect()
}

#[test]
fn what_people_changed_by_hand_comes_out_oldest_first() {
    let mut repository = Repository::new();
    for path in ["src/a.rs", "src/b.py", "vendor/c.rs", "src/old.rs", "d.txt"] {
        repository.write(path, code("load"));
    }
    repository.write("src/made.rs", "// @generated\n".to_owned() + &code("load"));
    repository.write("src/mixed.rs", b"\xff\x00\n");
    repository.commit("begin");
    repository.write("src/a.rs", code("fetch"));
    repository.write("d.txt", code("fetch"));
    repository.write("vendor/c.rs", code("fetch"));
    repository.write("src/made.rs", "// @generated\n".to_owned() + &code("fetch"));
    repository.write("src/mixed.rs", b"\xff\x00\x0b");
    repository.commit("fetch, not load");
    repository.git(&["mv", "src/old.rs", "src/new name.rs"]);
    repository.commit("move");
    repository.git(&["checkout", "--quiet", "-b", "side", "HEAD~1"]);
    repository.write("src/b.py", code("fetch"));
    repository.commit("b: fetch");
    repository.git(&["checkout", "--quiet", "main"]);
    repository.minutes += 1;
    repository.git(&["cherry-pick", "side"]);
    repository.minutes += 1;
    repository.git(&["merge", "--quiet", "--no-edit", "side"]);
    repository.write("src/new name.rs", code("store"));
    repository.commit("store");
    repository.git(&["revert", "--no-edit", "HEAD"]);
    repository.write("src/a.rs", code("load"));
    repository.commit("as it was, by hand");

    let (changes, summary) = read(repository.path(), &HistoryLimits::default()).unwrap();
    let short: Vec<(&str, usize)> =
        changes.iter().map(|change| (change.files[0].path.as_str(), change.files.len())).collect();
    assert_eq!(short, [("src/a.rs", 1), ("src/b.py", 1), ("src/new name.rs", 1)]);
    assert_eq!((&*changes[0].files[0].before, &*changes[0].files[0].after), (&*code("load"), &*code("fetch")));
    assert!(changes.is_sorted_by_key(|change| change.time_seconds) && changes[0].time_seconds > 1_700_000_000);
    let expected = [
        (LeftOut::Merge, 1),
        (LeftOut::Revert, 2),
        (LeftOut::Repeated, 1),
        (LeftOut::NoUsableFile, 2),
        (LeftOut::OtherLanguage, 2),
        (LeftOut::NewOrDeletedFile, 5),
        (LeftOut::MovedFile, 1),
        (LeftOut::VendoredFile, 2),
        (LeftOut::GeneratedFile, 1),
        (LeftOut::NoText, 1),
    ];
    assert_eq!(left_out(&summary), expected);
    assert_eq!((summary.found, summary.changes), (8, 3));
    assert_eq!(summary.repository, repository.path().file_name().unwrap().to_string_lossy());
    assert_eq!(summary.head.len(), 40);

    // What somebody's configuration says changes nothing.
    repository.write("order", "src/*\nd.txt\n");
    let order = repository.path().join("order").to_string_lossy().into_owned();
    for (setting, value) in [
        ("diff.relative", "true"),
        ("diff.orderFile", order.as_str()),
        ("diff.ignoreSubmodules", "all"),
        ("diff.renames", "false"),
        ("log.showRoot", "false"),
        ("log.follow", "true"),
        ("i18n.logOutputEncoding", "UTF-16"),
    ] {
        repository.git(&["config", setting, value]);
        for path in [repository.path().to_owned(), repository.path().join("src")] {
            let (others, same) = read(&path, &HistoryLimits::default()).unwrap();
            assert_eq!((&others, &same.left_out), (&changes, &summary.left_out), "{setting}");
        }
    }

    // A folder inside, and the folder of a repository without a checkout, are the same history.
    for path in ["src", ".git"] {
        let (others, _) = read(&repository.path().join(path), &HistoryLimits::default()).unwrap();
        assert_eq!(others, changes);
    }
}

#[test]
fn names_that_are_no_text_are_left_out() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let name = |byte: u8| OsStr::from_bytes(&[byte, b'.', b'r', b's']).to_owned();
    let mut repository = Repository::new();
    for text in ["load", "fetch"] {
        for byte in [b'a', 0xfe, 0xff] {
            std::fs::write(repository.path().join(name(byte)), code(text)).unwrap();
        }
        repository.commit(text);
    }
    let (changes, summary) = read(repository.path(), &HistoryLimits::default()).unwrap();
    assert_eq!(changes.iter().flat_map(|change| &change.files).map(|file| &*file.path).collect::<Vec<_>>(), ["a.rs"]);
    assert!(left_out(&summary).contains(&(LeftOut::NoText, 2)), "{summary:?}");

    let folder = tempfile::tempdir().unwrap();
    let releases: Vec<_> = ["load", "fetch"]
        .map(|text| {
            let release = folder.path().join(format!("tool-{text}"));
            std::fs::create_dir(&release).unwrap();
            for byte in [b'a', 0xfe, 0xff] {
                std::fs::write(release.join(name(byte)), code(text)).unwrap();
            }
            release
        })
        .into();
    let mut paths = Vec::new();
    let taker = &mut |change: Change, _: &mut Census| paths.push(change.files[0].path.clone());
    let summary = releases::read(&releases, &HistoryLimits::default(), taker).unwrap();
    assert_eq!(left_out(&summary), [(LeftOut::NoText, 4)]);
    assert_eq!(paths, ["a.rs"]);
}

#[test]
fn limits_say_what_they_left_out() {
    let mut repository = Repository::new();
    for name in ["one", "two", "three", "four"] {
        repository.write("a.rs", code(name));
        repository.write("b.rs", code(name));
        repository.commit(name);
    }
    let bytes = code("three").len() as u64;
    let of = |limits: HistoryLimits| {
        let (changes, summary) = read(repository.path(), &limits).unwrap();
        (changes.len(), left_out(&summary))
    };
    let begun = (LeftOut::NewOrDeletedFile, 2);
    let older = HistoryLimits { commits: 2, ..HistoryLimits::default() };
    assert_eq!(of(older), (2, vec![(LeftOut::OlderCommit, 2)]));
    let one_file = HistoryLimits { files: 1, ..HistoryLimits::default() };
    assert_eq!(of(one_file), (0, vec![(LeftOut::ManyFiles, 4)]));
    let short = HistoryLimits { file_bytes: bytes - 1, ..HistoryLimits::default() };
    // The files of `three` are too large, before and after.
    assert_eq!(of(short), (1, vec![(LeftOut::NoUsableFile, 3), begun, (LeftOut::LargeFile, 4)]));
    let little = HistoryLimits { bytes: 1, ..HistoryLimits::default() };
    assert_eq!(of(little), (1, vec![(LeftOut::NoUsableFile, 1), begun, (LeftOut::BytesLimit, 2)]));
}

#[test]
fn what_is_no_whole_history_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| read(path, &HistoryLimits::default()).unwrap_err();
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    // Only where no folder above is a repository itself.
    let error = refused(&plain);
    assert!(matches!(error, HistoryError::NotARepository { .. }), "{error}");
    assert!(error.to_string().contains("plain") && error.to_string().contains("not a git repository"), "{error}");
    let absent = refused(&folder.path().join("absent"));
    assert!(matches!(absent, HistoryError::NotARepository { .. }), "{absent}");

    let mut repository = Repository::new();
    assert!(matches!(refused(repository.path()), HistoryError::Empty(_)));
    for name in ["one", "two", "three"] {
        repository.write("a.rs", code(name));
        repository.commit(name);
    }
    let clone = folder.path().join("clone");
    let source = format!("file://{}", repository.path().display());
    repository.git(&["clone", "--quiet", "--depth", "1", &source, &clone.to_string_lossy()]);
    let shallow = refused(&clone);
    assert!(matches!(shallow, HistoryError::Shallow(_)) && shallow.to_string().contains("--unshallow"), "{shallow}");
}

#[test]
fn a_partial_clone_is_refused_until_everything_is_here_and_runs_nothing() {
    let mut repository = Repository::new();
    for name in ["one", "two", "three"] {
        repository.write("a.rs", code(name));
        repository.commit(name);
    }
    repository.git(&["config", "uploadpack.allowFilter", "true"]);
    let folder = tempfile::tempdir().unwrap();
    let source = format!("file://{}", repository.path().display());
    for filter in ["blob:none", "tree:0"] {
        let clone = folder.path().join(filter.replace(':', "-"));
        let path = clone.to_string_lossy().into_owned();
        let filter = format!("--filter={filter}");
        repository.git(&["clone", "--quiet", "--no-checkout", &filter, &source, &path]);
        let refused = read(&clone, &HistoryLimits::default()).unwrap_err();
        assert!(matches!(refused, HistoryError::Partial(_)), "{refused}");
        assert!(refused.to_string().contains("git fetch --refetch --no-filter"), "{refused}");

        // A repository may name a program as its remote, and allow it: reading what is missing must not run it.
        let ran = folder.path().join("ran");
        let program = format!("ext::sh -c touch% {}", ran.display());
        repository.git(&["-C", &path, "config", "protocol.ext.allow", "always"]);
        repository.git(&["-C", &path, "config", "remote.origin.url", &program]);
        assert!(matches!(read(&clone, &HistoryLimits::default()), Err(HistoryError::Partial(_))));
        assert!(!ran.exists(), "a program of the repository's configuration ran");

        repository.git(&["-C", &path, "config", "remote.origin.url", &source]);
        repository.git(&["-C", &path, "fetch", "--quiet", "--refetch", "--no-filter"]);
        assert_eq!(read(&clone, &HistoryLimits::default()).unwrap().0.len(), 2);
    }
}

#[test]
fn a_damaged_repository_is_an_error_and_no_short_history() {
    let mut repository = Repository::new();
    for name in ["one", "two"] {
        repository.write("a.rs", code(name));
        repository.commit(name);
    }
    let objects = repository.path().join(".git/objects");
    // Every object but the newest commit, which has to be found for the history to begin.
    let head = String::from_utf8(
        Command::new("git").current_dir(repository.path()).args(["rev-parse", "HEAD"]).output().unwrap().stdout,
    )
    .unwrap();
    for folder in std::fs::read_dir(&objects).unwrap().flatten() {
        for object in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let id = format!("{}{}", folder.file_name().to_string_lossy(), object.file_name().to_string_lossy());
            if id != head.trim() {
                std::fs::remove_file(object.path()).unwrap();
            }
        }
    }
    assert!(matches!(read(repository.path(), &HistoryLimits::default()), Err(HistoryError::Git { .. })));

    // What is missing is named, by git where it stops, whatever it is.
    for missing in ["HEAD^{tree}", "HEAD~1:a.rs"] {
        let mut repository = Repository::new();
        for name in ["one", "two"] {
            repository.write("a.rs", code(name));
            repository.commit(name);
        }
        let output = Command::new("git").current_dir(repository.path()).args(["rev-parse", missing]).output().unwrap();
        let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        std::fs::remove_file(repository.path().join(".git/objects").join(&id[..2]).join(&id[2..])).unwrap();
        let error = read(repository.path(), &HistoryLimits::default()).unwrap_err();
        assert!(matches!(error, HistoryError::Git { .. }) && error.to_string().contains(&id), "{missing}: {error}");
    }
}

#[test]
fn points_of_a_real_commit_are_drawn_from_its_text_before() {
    let mut repository = Repository::new();
    repository.write("a.rs", code("load"));
    repository.commit("begin");
    let mut lines: Vec<String> = code("load").lines().map(str::to_owned).collect();
    for number in [2, 10] {
        lines[number] = lines[number].replace("load", "fetch");
    }
    repository.write("a.rs", lines.join("\n") + "\n");
    repository.commit("some fetch");
    let (changes, _) = read(repository.path(), &HistoryLimits::default()).unwrap();
    let of_files = change_hunks(&changes[0].files);
    let found: Vec<EditPoint> = points("r", &changes[0], &of_files, &PointSettings::default(), &mut Census::default());
    let edits: Vec<&EditPoint> = found.iter().filter(|point| point.wants_edit()).collect();
    assert!(!edits.is_empty() && edits.len() * 2 == found.len());
    for point in found.iter().filter(|point| point.revealed == 0) {
        assert!(point.context.recent_edits.is_empty() && !point.context.window.text.contains("fetch"), "{point:?}");
    }
    for point in edits.iter().filter(|point| point.revealed == 1) {
        let [recent] = &point.context.recent_edits[..] else { panic!("{point:?}") };
        assert!(recent.old_text.contains("load") && recent.new_text.contains("fetch"));
        assert_eq!(point.remaining[0][0].old_text, "load");
    }
}

#[test]
fn releases_are_a_history_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut folders = Vec::new();
    for (version, name) in [("1.0", "load"), ("1.1", "fetch"), ("1.2", "fetch"), ("1.3", "load")] {
        let release = folder.path().join(format!("tool-{version}"));
        std::fs::create_dir_all(release.join("src/vendor")).unwrap();
        std::fs::write(release.join("src/a.rs"), code(name)).unwrap();
        std::fs::write(release.join("src/vendor/b.rs"), code(name)).unwrap();
        std::fs::write(release.join(format!("src/only{version}.py")), code(name)).unwrap();
        folders.push(release);
    }
    let mut changes = Vec::new();
    let summary = releases::read(&folders, &HistoryLimits::default(), &mut |change, _| changes.push(change)).unwrap();
    let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
    assert_eq!(ids, ["tool-1.0..tool-1.1 src/a.rs"], "the last release takes the first step back");
    assert_eq!((summary.repository.as_str(), summary.found), ("tool", 3));
    let expected = [(LeftOut::Revert, 1), (LeftOut::NewOrDeletedFile, 6), (LeftOut::VendoredFile, 4)];
    assert_eq!(left_out(&summary), expected);
    for few in [0, 1] {
        let refused = releases::read(&folders[..few], &HistoryLimits::default(), &mut |_, _| {}).unwrap_err();
        assert!(matches!(refused, HistoryError::FewReleases(count) if count == few));
    }
    let absent = [folders[0].clone(), folder.path().join("absent")];
    let error = releases::read(&absent, &HistoryLimits::default(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, HistoryError::Source(_)), "{error}");
}
