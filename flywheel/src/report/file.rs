//! The file that a report goes to.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::data_dir::{beside, write_whole};
use crate::failure::Failure;

/// What others may do with a new file, before the process's mask takes some of it.
const MODE: u32 = 0o666;

/// Where a report is put.
enum Place {
    /// In the place of a file, or where nothing is: whole or not at all. Where a link leads, so that the link stays.
    Whole { path: PathBuf, mode: u32, is_there: bool },
    /// Through what stands there: a pipe, a device, or a link that leads nowhere yet is not replaced by a file.
    Through,
}

impl Place {
    fn of(path: &Path) -> std::io::Result<Self> {
        match path.metadata() {
            Ok(there) if there.is_file() => {
                let mode = there.permissions().mode() & 0o777;
                Ok(Self::Whole { path: path.canonicalize()?, mode, is_there: true })
            }
            Ok(_) => Ok(Self::Through),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Err(_) if path.is_symlink() => Ok(Self::Through),
            Err(_) => Ok(Self::Whole { path: path.to_owned(), mode: MODE, is_there: false }),
        }
    }
}

/// Refuses a file that a report can not be written to, before the work that it is about. What is there stays as it is.
pub(crate) fn check_writable(path: &Path) -> Result<(), Failure> {
    let check = || match Place::of(path)? {
        Place::Whole { path, mode, is_there } => {
            if is_there {
                File::options().append(true).open(&path)?;
            }
            beside(&path, mode).map(drop)
        }
        Place::Through => {
            // A link that leads nowhere yet stays, and so does the file that it is opened to.
            File::options().append(true).create(true).open(path).map(drop)
        }
    };
    check().map_err(|error| unwritable(path, &error))
}

/// Writes a report.
pub(crate) fn put(path: &Path, text: &str) -> Result<(), Failure> {
    match Place::of(path).map_err(|error| unwritable(path, &error))? {
        Place::Whole { path, mode, .. } => write_whole(&path, text.as_bytes(), mode),
        Place::Through => std::fs::write(path, text).map_err(|error| unwritable(path, &error)),
    }
}

/// Whether a report at `path` would lie in `folder`.
pub(crate) fn lies_in(path: &Path, folder: &Path) -> bool {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = path.canonicalize().or_else(|_| parent.canonicalize());
    place.is_ok_and(|place| folder.canonicalize().is_ok_and(|folder| place.starts_with(folder)))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::refused(format!("the report can not be written to {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_report_takes_the_place_of_a_file_whole_and_links_stay() {
        let directory = tempfile::tempdir().unwrap();
        let [file, name, link, new] = ["file", "name", "link", "new"].map(|name| directory.path().join(name));
        std::fs::write(&file, "before").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::hard_link(&file, &name).unwrap();
        symlink("file", &link).unwrap();
        check_writable(&link).unwrap();
        assert_eq!(read(&file), "before", "a check changes nothing");
        put(&link, "report").unwrap();
        assert_eq!((read(&file).as_str(), read(&name).as_str()), ("report", "before"), "nothing is written over");
        assert!(link.is_symlink());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        check_writable(&new).unwrap();
        assert!(!new.exists());
        put(&new, "report").unwrap();
        assert_eq!(read(&new), "report");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
        let device = Path::new("/dev/null");
        assert!(check_writable(device).is_ok() && put(device, "report").is_ok() && !device.is_file());
    }

    #[test]
    fn what_can_not_be_written_is_refused_before() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |path: &Path| matches!(check_writable(path), Err(Failure::Refused(_)));
        assert!(refused(directory.path()) && refused(&directory.path().join("absent/report.md")));
    }

    #[test]
    fn a_report_lies_in_a_folder_wherever_its_name_leads() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("folder");
        std::fs::create_dir_all(folder.join("inside")).unwrap();
        std::fs::write(folder.join("inside/file"), "code").unwrap();
        symlink(folder.join("inside/file"), directory.path().join("link")).unwrap();
        let lies = |name: &str| lies_in(&directory.path().join(name), &folder);
        assert!(lies("folder/new.md") && lies("folder/inside/../inside/new.md") && lies("link"));
        assert!(!lies("new.md") && !lies("folder2") && !lies("folder/../new.md"));
    }
}
