//! Answers that violate HTTP, or use rare features of it.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::network::{BROKEN, NOT_MATOMO, promise};
use super::stage::{MARK, Stage};
use super::wire::{Answer, Play, Wire, chunks, gzip, linger, say};
use crate::support::run;

const SCHEME: &str = "Check the scheme and the port";
const NOT_HTTP: &str = "the answer of Matomo is not valid HTTP: …";
const OK: &str = "HTTP/1.1 200 OK\nContent-Type: application/json; charset=utf-8";

fn play(
    how: impl Fn(&mut TcpStream, &Answer) -> io::Result<()> + Send + Sync + 'static,
) -> Option<Play> {
    Some(Arc::new(how))
}

/// An answer with this head and a body made from the good one.
fn answer(
    head: &'static str,
    body: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
) -> Option<Play> {
    play(move |client, good| {
        let body = body(&good.body);
        let head = head.replace("LENGTH", &body.len().to_string());
        say(client, &format!("{OK}\n{head}"), &body)
    })
}

fn stage(token: &'static str, section: &'static str) -> (Stage, Wire) {
    let mut stage = Stage::new(section, token);
    let wire = Wire::before(stage.fake.port(), MARK);
    stage.url = wire.url();
    (stage, wire)
}

#[test]
fn http() {
    let (mut stage, wire) = stage("2c9f7e40httpbadlyspoken1d8b5a63e0", "HTTP");
    good_ones(&mut stage, &wire);
    lengths_and_chunks(&mut stage, &wire);
    packed(&mut stage, &wire);
    not_http(&mut stage, &wire);
    wire.play(None);
    stage.finish();
}

fn good_ones(stage: &mut Stage, wire: &Wire) {
    let mut works = |case: &str, injected: &str, play| {
        wire.play(play);
        stage.works(case, injected);
    };
    let done = |body: &[u8], size| [chunks(body, size), b"0\r\n\r\n".to_vec()].concat();
    let chunked = "Transfer-Encoding: chunked";
    works("chunks", "chunks of 1,000 bytes", answer(chunked, move |body| done(body, 1000)));
    works("tiny chunks", "chunks of 3 bytes", answer(chunked, move |body| done(body, 3)));
    let trailer =
        |body: &[u8]| [chunks(body, 999), b"0\r\nX-Checksum: 1\r\n\r\n".to_vec()].concat();
    works("a trailer", "chunks, then a header", answer(chunked, trailer));
    let packed = "Content-Encoding: gzip\nContent-Length: LENGTH";
    works("gzip", "a packed body", answer(packed, gzip));
    let both = "Content-Encoding: gzip\nTransfer-Encoding: chunked";
    works("gzip in chunks", "both", answer(both, move |body| done(&gzip(body), 100)));
    let old = play(|client, good| say(client, "HTTP/1.0 200 OK", &good.body));
    works("HTTP/1.0", "no length: the body ends with the connection", old);
    let early = play(|client, good| {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        client.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n")?;
        // A pause like that of a server at work. Without it, if more than 64 kB have arrived, ureq
        // takes them for an endless header.
        std::thread::sleep(Duration::from_millis(300));
        client.write_all(&good.head)?;
        client.write_all(&good.body)?;
        linger(client)
    });
    works("interim answers", "100 and 103 before the 200", early);
    let slow = play(|client, good| {
        for part in [good.head.as_slice(), &good.body].concat().chunks(400) {
            client.write_all(part)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        linger(client)
    });
    works("many small packets", "400 bytes at a time", slow);
    let longer = answer("Content-Length: LENGTH", |body| [body, b" \r\n \n"].concat());
    works("space after the end", "blanks behind the JSON", longer);
}

fn lengths_and_chunks(stage: &mut Stage, wire: &Wire) {
    let mut fails = |case: &str, injected: &str, play, message: &str, status| {
        wire.play(play);
        let (state, hint) = if status == 0 { ("08P01", SCHEME) } else { ("08006", BROKEN) };
        stage.fails(case, injected, &promise(state, message, status, hint));
    };
    let (broken, middle) = (
        "the answer of Matomo broke off: …",
        "the answer of Matomo broke off: it ends in the middle",
    );
    let with = |length: fn(usize) -> String| {
        play(move |client, good| {
            let length = length(good.body.len());
            say(client, &format!("{OK}\nContent-Length: {length}"), &good.body)
        })
    };
    let plus = with(|length| (length + 100).to_string());
    fails("a Content-Length too long", "100 more than there is", plus, broken, 200);
    let minus = with(|length| (length - 100).to_string());
    fails("a Content-Length too short", "100 less than there is", minus, middle, 200);
    fails("no number", "`Content-Length: many`", with(|_| "many".to_owned()), NOT_HTTP, 0);
    let huge = with(|_| "99999999999999999999".to_owned());
    fails("a length beyond 64 bits", "`Content-Length: 99999999999999999999`", huge, NOT_HTTP, 0);
    let chunked = "Transfer-Encoding: chunked";
    let cut = answer(chunked, |body| chunks(body, 1000));
    fails("no last chunk", "all chunks but the last, then closed", cut, broken, 200);
    let cut = answer(chunked, |body| chunks(body, 1000)[..1500].to_vec());
    fails("half a chunk", "then closed", cut, broken, 200);
    let bad = answer(chunked, |body| [&chunks(body, 1000)[..1007], b"zz\r\n"].concat());
    fails("a bad chunk", "`zz` for a length", bad, broken, 200);
    let huge = answer(chunked, |body| [b"fffffffffffffffff\r\n", body].concat());
    fails("a huge chunk", "`fffffffffffffffff` for a length", huge, broken, 200);
    let old =
        play(|client, good| say(client, "HTTP/1.0 200 OK", &good.body[..good.body.len() / 2]));
    fails("HTTP/1.0, half a body", "no length", old, middle, 200);
}

fn packed(stage: &mut Stage, wire: &Wire) {
    let packed = "Content-Encoding: gzip\nContent-Length: LENGTH";
    let broken = "the answer of Matomo broke off: …";
    let mut fails = |case: &str, injected: &str, play| {
        wire.play(play);
        stage.fails(case, injected, &promise("08006", broken, 200, BROKEN));
    };
    let corrupt = answer(packed, |body| {
        let mut bytes = gzip(body);
        let middle = bytes.len() / 2;
        bytes[middle..middle + 20].fill(0xff);
        bytes
    });
    fails("corrupt gzip", "20 bytes in the middle are others", corrupt);
    let checksum = answer(packed, |body| {
        let mut bytes = gzip(body);
        let at = bytes.len() - 8;
        bytes[at] ^= 1;
        bytes
    });
    fails("a wrong checksum", "gzip with one bit turned in the CRC", checksum);
    let cut = answer(packed, |body| {
        let bytes = gzip(body);
        bytes[..bytes.len() / 2].to_vec()
    });
    fails("half of gzip", "with the right Content-Length for that half", cut);
    fails("no gzip at all", "plain JSON that claims to be gzip", answer(packed, <[u8]>::to_vec));
    wire.play(answer("Content-Encoding: br\nContent-Length: LENGTH", |_| {
        b"\x0b\x02\x80[]\x03".to_vec()
    }));
    let message = "the answer of Matomo is not JSON but text: …";
    let injected = "`Content-Encoding: br`, which was not asked for";
    stage.fails("another packing", injected, &promise("08P01", message, 200, NOT_MATOMO));
}

fn not_http(stage: &mut Stage, wire: &Wire) {
    let mut fails = |case: &str, injected: &str, bytes: Vec<u8>| {
        wire.play(play(move |client, _| {
            client.write_all(&bytes)?;
            linger(client)
        }));
        stage.fails(case, injected, &promise("08P01", NOT_HTTP, 0, SCHEME));
    };
    fails("another protocol", "`SSH-2.0-OpenSSH_9.2p1`", b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec());
    fails("HTTP/2", "the preface of HTTP/2", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80".to_vec());
    fails("noise", "10,000 random bytes", noise());
    let line = [b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec(), vec![b'x'; 1_000_000]].concat();
    fails("a long header", "one of 1,000,000 bytes", line);
    let many = "X-One: more\r\n".repeat(5000);
    fails("many headers", "5,000", format!("HTTP/1.1 200 OK\r\n{many}\r\n[]").into_bytes());
    fails("a status that is none", "`HTTP/1.1 20x OK`", b"HTTP/1.1 20x OK\r\n\r\n[]".to_vec());
}

fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..10_000).map(|_| next()).collect()
}

/// The peak memory of a process, in kB.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An endless gzip stream of spaces: 1 MB per block of 1 kB.
fn bomb(client: &mut TcpStream) -> io::Result<()> {
    use flate2::{Compress, Compression, FlushCompress};
    let mut compress = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(1 << 16);
    compress.compress_vec(&vec![b' '; 1 << 20], &mut block, FlushCompress::Full).unwrap();
    let head = format!("{OK}\nContent-Encoding: gzip\n\n").replace('\n', "\r\n");
    client.write_all(head.as_bytes())?;
    client.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])?;
    // A fully flushed block can be repeated.
    loop {
        client.write_all(&block)?;
    }
}

#[test]
fn memory() {
    let (mut stage, wire) = stage("b04d63a9answerswithoutend58e7c21f", "Memory");
    let pid = stage.pid();
    let (limit, room) = (8, 24 * 1024);
    run(&mut stage.db, &format!("SET matomo.max_response_size = '{limit} MB'"));
    let message = "the answer of Matomo is larger than 8388608 bytes";
    let too_large = promise("54000", message, 200, "raise matomo.max_response_size");
    let bad = promise("08P01", NOT_HTTP, 0, SCHEME);
    let before = peak(pid);
    wire.play(play(|client, _| {
        client.write_all(format!("{OK}\n\n[").replace('\n', "\r\n").as_bytes())?;
        loop {
            client.write_all(&[b' '; 65_536])?;
        }
    }));
    let injected = "blanks for ever; `matomo.max_response_size` is 8 MB";
    stage.fails("an endless body", injected, &too_large);
    wire.play(play(|client, _| {
        let head = format!("{OK}\nTransfer-Encoding: chunked\n\n").replace('\n', "\r\n");
        client.write_all(head.as_bytes())?;
        let block = chunks(&[b' '; 65_536], 65_536);
        loop {
            client.write_all(&block)?;
        }
    }));
    stage.fails("endless chunks", "the same in chunks", &too_large);
    wire.play(play(|client, _| bomb(client)));
    let injected = "gzip that unpacks to blanks for ever, 1 MB from 1 kB";
    stage.fails("a gzip bomb", injected, &too_large);
    wire.play(play(|client, _| {
        client.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            client.write_all(b"X-More: and more and more\r\n")?;
        }
    }));
    stage.fails("endless headers", "header after header", &bad);
    wire.play(play(|client, _| {
        client.write_all(b"HTTP/1.1 200 OK\r\nX-More: ")?;
        loop {
            client.write_all(&[b'x'; 4096])?;
        }
    }));
    stage.fails("an endless header", "one that never ends", &bad);
    wire.play(play(|client, _| {
        loop {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }));
    stage.fails("endless interim answers", "100 Continue for ever", &bad);
    let after = peak(pid);
    assert!(after < before + room, "the backend grew from {before} kB to {after} kB");
    let seen = "less than three times that above its start, at its peak";
    let promised = "a small multiple of `matomo.max_response_size`";
    stage.section.row(
        "the backend's memory",
        "all of the above, one after the other",
        promised,
        seen,
    );
    short_answers(&mut stage, &wire);
    let peak = peak(pid);
    let times = 10;
    assert!(peak < before + times * limit * 1024, "the backend grew from {before} kB to {peak} kB");
    stage.section.row(
        "the backend's memory, then",
        "the last three, one after the other",
        "a multiple of `matomo.max_response_size` that does not depend on the answer",
        "less than ten times that above its start, at its peak",
    );
    wire.play(None);
    stage.finish();
}

/// Answers below the limit of 8 MB that would take much more in memory or as rows.
fn short_answers(stage: &mut Stage, wire: &Wire) {
    let length = "Content-Length: LENGTH";
    let list = |part: &str, count: usize| format!("[{}{part}]", format!("{part},").repeat(count));
    let visit = |members: &str, actions: &str| {
        format!(
            r#"[{{"idVisit":7,"lastActionTimestamp":1792929600{members},"actionDetails":{actions}}}]"#
        )
    };
    let message = "unexpected answer of Matomo: it has more visits and actions than an answer of its length can have";
    let unexpected = promise("08P01", message, 0, "report the message");
    let body = list("1", 4_000_000);
    wire.play(answer(length, move |_| body.clone().into_bytes()));
    stage.fails("visits by the million", "a list of 4,000,000 numbers, 8 MB", &unexpected);
    let body = visit("", &list("{}", 2_500_000));
    wire.play(answer(length, move |_| body.clone().into_bytes()));
    stage.fails(
        "actions by the million",
        "a visit with 2,500,000 empty actions, 7.5 MB",
        &unexpected,
    );
    let members = format!(
        r#","siteName":"{}","customVariables":{}"#,
        "x".repeat(1 << 20),
        list("1", 2_500_000)
    );
    let body = visit(&members, &list("{}", 10_000));
    wire.play(answer(length, move |_| body.clone().into_bytes()));
    let message = "the rows of visit 7 are larger than 8388608 bytes";
    let too_large = promise("54000", message, 0, "it bounds the rows of a visit as well");
    let injected = "a visit with a `siteName` of 1 MB, which would stand in the rows of 10,000 actions, and 2,500,000 numbers for custom variables";
    stage.fails("rows beyond all measure", injected, &too_large);
}
