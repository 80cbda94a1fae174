use std::os::unix::fs::PermissionsExt as _;

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;

const SIZES: Sizes = Sizes { file: 1024, cache: 1 << 20 };

fn cache(directory: &TempDir) -> CodeCache {
    CodeCache::open(directory.path(), Fingerprint([7; 32]), SIZES, &Random::System).unwrap()
}

fn digest() -> Digest {
    Digest::of(b"a component")
}

/// Returns a cache with one file, and the path of the file.
fn filled(directory: &TempDir) -> (CodeCache, PathBuf) {
    let cache = cache(directory);
    cache.put(&digest(), &MachineCode::trusted(b"machine code".to_vec()));
    let path = cache.path(&digest());
    assert!(path.is_file());
    (cache, path)
}

/// Puts other bytes under the name of a file, as a program that may write to the directory could.
fn replace(path: &Path, bytes: impl AsRef<[u8]>) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// Returns the reason why the present file is not loaded. The file is removed afterwards.
fn refused(cache: &CodeCache) -> String {
    let reason = cache.read(&digest()).unwrap_err().to_string();
    assert!(cache.take(&digest()).unwrap().is_none());
    assert!(!cache.path(&digest()).exists(), "{reason}");
    reason
}

#[test]
fn machine_code_survives_a_restart_and_is_readable_by_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let (_, path) = filled(&directory);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o400, 0o700), "nobody writes to a file that is mapped");
    let again = cache(&directory);
    assert!(again.take(&digest()).unwrap().is_some());
    assert_eq!(again.take_copy(&digest()).unwrap().unwrap().as_bytes(), b"machine code");
    let another = Digest::of(b"another");
    assert!(again.take(&another).unwrap().is_none() && again.take_copy(&another).unwrap().is_none());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn a_change_of_any_byte_is_detected() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let whole = fs::read(&path).unwrap();
    assert!(whole.starts_with(b"machine code"), "a mapping begins with it");
    assert_eq!(whole.len() as u64, b"machine code".len() as u64 + TRAILER);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        replace(&path, &bytes);
        assert!(cache.read_copy(&digest()).is_err());
        refused(&cache);
    }
    replace(&path, &whole);
    assert!(cache.take(&digest()).unwrap().is_some());
}

#[test]
fn a_change_of_the_length_is_detected() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        replace(&path, &whole[..length]);
        refused(&cache);
    }
    replace(&path, [&whole[..], b"more"].concat());
    assert_eq!(refused(&cache), "it does not end as Wharf writes it");
    // With the trailer in its place.
    replace(&path, [b"more", &whole[..]].concat());
    assert_eq!(refused(&cache), "its length has changed");
}

#[test]
fn a_new_file_leaves_the_one_that_is_mapped_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let mut mapped = File::open(&path).unwrap();
    cache.put(&digest(), &MachineCode::trusted(b"other machine code".to_vec()));
    assert_eq!(cache.take_copy(&digest()).unwrap().unwrap().as_bytes(), b"other machine code");
    cache.discard(&digest(), "a test");
    let mut content = Vec::new();
    mapped.read_to_end(&mut content).unwrap();
    assert!(content.starts_with(b"machine code") && !path.exists());
}

#[test]
fn a_file_that_cannot_be_opened_for_want_of_descriptors_or_memory_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let unreadable = |error: Errno| Err::<(), _>(Refusal::Unreadable(error.into()));
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        assert!(cache.unless_refused(&digest(), unreadable(error)).is_err());
        assert!(path.exists(), "{error}");
    }
    // A disk that cannot read it will not read it later either.
    assert!(cache.unless_refused(&digest(), unreadable(Errno::IO)).unwrap().is_none());
    assert!(!path.exists());
}

#[test]
fn a_file_under_the_name_of_another_component_is_detected() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let other = Digest::of(b"another");
    fs::rename(&path, cache.path(&other)).unwrap();
    assert!(matches!(cache.read(&other), Err(Refusal::WrongMac)));
    assert!(cache.take(&other).unwrap().is_none() && !cache.path(&other).exists());
}

#[test]
fn a_file_of_another_host_is_detected() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cache, path) = filled(&directory);
    let (_, foreign) = filled(&elsewhere);
    replace(&path, fs::read(foreign).unwrap());
    assert_eq!(refused(&cache), "its MAC is wrong, so it was changed");
}

#[test]
fn a_file_of_another_engine_is_detected_and_removed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, path) = filled(&directory);
    let open = || CodeCache::open(directory.path(), Fingerprint([8; 32]), SIZES, &Random::System).unwrap();
    let foreign = directory.path().join(DIRECTORY).join("README");
    let unfinished = directory.path().join(DIRECTORY).join(format!("{}.3.tmp", digest()));
    let of_version_1 = path.with_file_name(format!("{}-{}.cwasm", digest(), Fingerprint([8; 32]).short()));
    fs::write(&foreign, b"an operator's").unwrap();
    fs::write(&unfinished, b"of a crash").unwrap();
    fs::write(&of_version_1, b"of an older Wharf").unwrap();
    let other = open();
    assert!(!path.exists() && !unfinished.exists() && !of_version_1.exists() && foreign.exists());

    // Under the right name, with the right key.
    cache.put(&digest(), &MachineCode::trusted(b"machine code".to_vec()));
    fs::rename(cache.path(&digest()), other.path(&digest())).unwrap();
    assert_eq!(refused(&other), "it was compiled for another engine");
    // With the expected trailer.
    cache.put(&digest(), &MachineCode::trusted(b"machine code".to_vec()));
    let mut bytes = fs::read(cache.path(&digest())).unwrap();
    let fingerprint = b"machine code".len() + MAGIC.len();
    bytes[fingerprint..fingerprint + 32].fill(8);
    replace(&other.path(&digest()), bytes);
    assert_eq!(refused(&other), "its MAC is wrong, so it was changed");
}

#[test]
fn a_file_above_the_maximum_size_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(&directory);
    cache.put(&digest(), &MachineCode::trusted(vec![0; 1025]));
    assert_eq!(refused(&cache), "it is larger than compiled code can be");
}

#[test]
fn a_disk_that_cannot_be_written_is_not_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(&directory);
    fs::remove_dir(&cache.directory).unwrap();
    cache.put(&digest(), &MachineCode::trusted(b"machine code".to_vec()));
    assert!(cache.take(&digest()).unwrap().is_none());
}

#[test]
fn a_trim_removes_what_is_not_in_use_the_least_recently_used_first() {
    let directory = tempfile::tempdir().unwrap();
    let file = TRAILER + 10;
    let sizes = Sizes { file: 1024, cache: 2 * file };
    let open = || CodeCache::open(directory.path(), Fingerprint([7; 32]), sizes, &Random::System).unwrap();
    let digests = [0, 1, 2, 3, 4].map(|number: u8| Digest::of(&[number]));
    let cache = open();
    for digest in &digests {
        cache.put(digest, &MachineCode::trusted(vec![0; 10]));
    }
    let kept = |cache: &CodeCache| digests.each_ref().map(|digest| cache.path(digest).exists());
    let in_use = |digest: &str| digest == digests[0].as_str();
    assert!(cache.needs_trim());
    assert!(cache.take(&digests[1]).unwrap().is_some());
    cache.trim(in_use);
    assert_eq!(kept(&cache), [true, true, false, false, true], "1 was used after 2 and 3");
    assert!(!cache.needs_trim());
    // A start finds the files again.
    let again = open();
    again.put(&digests[2], &MachineCode::trusted(vec![0; 10]));
    again.trim(in_use);
    assert_eq!(kept(&again), [true, false, true, false, true]);
    again.trim(|_| false);
    assert_eq!(kept(&again), [false, false, true, false, true]);
}
