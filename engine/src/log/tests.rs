use super::*;
use crate::record::LogConfig;

const ALL: Selection = Selection { tail: Tail::All, since: None, until: None };

fn texts(reader: &mut Reader, selection: &Selection) -> Vec<String> {
    let mut texts = Vec::new();
    reader
        .read(selection, |entry| {
            texts.push(entry.log);
            Ok(())
        })
        .unwrap();
    texts
}

#[test]
fn lines_are_joined_over_writes_and_long_ones_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json.log");
    let mut writer = Writer::open(&path, LogConfig::default()).unwrap();
    writer.write(Stream::Stdout, b"he").unwrap();
    writer.write(Stream::Stderr, b"oops\n").unwrap();
    writer.write(Stream::Stdout, b"llo \"x\"\nsecond\nrest").unwrap();
    writer.write(Stream::Stderr, &vec![b'x'; 40_000]).unwrap();
    writer.finish().unwrap();
    let texts = texts(&mut Reader::new(&path), &ALL);
    assert_eq!(&texts[..3], ["oops\n", "hello \"x\"\n", "second\n"]);
    let lengths: Vec<usize> = texts[3..].iter().map(String::len).collect();
    assert_eq!(lengths, [16_384, 16_384, 4, 40_000 - 2 * 16_384]);
}

#[test]
fn rotation_keeps_so_many_files_and_a_follower_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json.log");
    let config = LogConfig { max_size: 1_000, max_files: 3, enabled: true };
    let mut writer = Writer::open(&path, config).unwrap();
    let mut reader = Reader::new(&path);
    let mut seen = Vec::new();
    for number in 0..100 {
        writer.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        if number % 7 == 0 {
            reader
                .read_more(&ALL, |entry| {
                    seen.push(entry.log);
                    Ok(())
                })
                .unwrap();
        }
    }
    let wanted: Vec<String> = (0..=98).map(|number| format!("line {number}\n")).collect();
    assert_eq!(seen, wanted);
    let files =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let sizes: Vec<u64> = files.collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 1_000), "{sizes:?}");
    let kept = texts(&mut Reader::new(&path), &ALL);
    assert_eq!(kept.last().unwrap(), "line 99\n");
    assert!(kept.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn one_large_write_is_rotated_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json.log");
    let config = LogConfig { max_size: 1_000, max_files: 2, enabled: true };
    let mut writer = Writer::open(&path, config).unwrap();
    let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
    writer.write(Stream::Stdout, text.as_bytes()).unwrap();
    let sizes: Vec<u64> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 1_000), "{sizes:?}");
    assert_eq!(texts(&mut Reader::new(&path), &ALL).last().unwrap(), "line 99\n");
    writer.write(Stream::Stdout, &vec![b'x'; 5_000]).unwrap();
    writer.finish().unwrap();
    assert_eq!(texts(&mut Reader::new(&path), &ALL).last().unwrap().len(), 5_000);
}

#[test]
fn tail_and_times_select() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json.log");
    let entry = |number: u32| {
        format!(
            "{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:0{number}.000000000Z\"}}\n"
        )
    };
    std::fs::write(&path, (0..5).map(entry).collect::<String>() + "{torn\n").unwrap();
    let at = |second: u32| Some(format!("2026-01-01T00:00:0{second}.000000000Z"));
    let mut reader = Reader::new(&path);
    assert_eq!(texts(&mut reader, &Selection { tail: Tail::Last(2), ..ALL }), ["3\n", "4\n"]);
    assert_eq!(texts(&mut reader, &Selection { since: at(3), ..ALL }), ["3\n", "4\n"]);
    assert_eq!(texts(&mut reader, &Selection { until: at(1), tail: Tail::Last(1), ..ALL }), ["1\n"]);
    assert_eq!(texts(&mut reader, &Selection { tail: Tail::Last(0), ..ALL }), [] as [String; 0]);
}

#[test]
fn a_disabled_log_writes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json.log");
    let mut writer = Writer::open(&path, LogConfig { enabled: false, ..LogConfig::default() }).unwrap();
    writer.write(Stream::Stdout, b"x\n").unwrap();
    writer.finish().unwrap();
    assert!(!path.exists());
}
