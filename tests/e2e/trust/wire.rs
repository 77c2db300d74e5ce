//! A proxy in front of the fake that can corrupt an answer byte by byte.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The fake's answer.
pub struct Answer {
    /// From the status line to the empty line.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

/// What is sent instead; then the connection is closed.
pub type Play = Arc<dyn Fn(&mut TcpStream, &Answer) -> io::Result<()> + Send + Sync>;

pub struct Wire {
    port: u16,
    play: Arc<Mutex<Option<Play>>>,
}

impl Wire {
    /// A proxy for the server at this port. Answers to requests that contain `mark` can be
    /// corrupted; others pass unchanged.
    pub fn before(server: u16, mark: &'static str) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let play: Arc<Mutex<Option<Play>>> = Arc::default();
        let theirs = Arc::clone(&play);
        // Runs until the process ends.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let play = Arc::clone(&theirs);
                thread::spawn(move || {
                    // Clients that disconnect are part of the tests.
                    let _ = serve(client, server, mark, &play);
                });
            }
        });
        Wire { port, play }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Corrupts answers from now on; `None` stops that.
    pub fn play(&self, play: Option<Play>) {
        *self.play.lock().unwrap() = play;
    }
}

fn serve(
    mut client: TcpStream,
    server: u16,
    mark: &str,
    play: &Mutex<Option<Play>>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    client.set_nodelay(true)?;
    loop {
        let (head, body) = message(&mut client)?;
        server.write_all(&[head.as_slice(), &body].concat())?;
        let answer = {
            let (head, body) = message(&mut server)?;
            Answer { head, body }
        };
        let play = play.lock().unwrap().clone();
        match play.filter(|_| String::from_utf8_lossy(&head).contains(mark)) {
            Some(play) => return play(&mut client, &answer),
            None => client.write_all(&[answer.head, answer.body].concat())?,
        }
    }
}

/// Reads a head and as much of a body as it announces.
fn message(stream: &mut TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut block = [0; 65_536];
    let mut read = |all: &mut Vec<u8>| -> io::Result<()> {
        let n = stream.read(&mut block)?;
        all.extend(&block[..n]);
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    };
    let end = loop {
        match all.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => read(&mut all)?,
        }
    };
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.map_or(0, |length| length.trim().parse().unwrap());
    while all.len() < end + length {
        read(&mut all)?;
    }
    let body = all.split_off(end);
    Ok((all, body))
}

/// Sends an answer with this head, its lines separated by \n, and this body.
pub fn say(client: &mut TcpStream, head: &str, body: &[u8]) -> io::Result<()> {
    let head = format!("{}\n\n", head.trim_end()).replace('\n', "\r\n");
    client.write_all(head.as_bytes())?;
    client.write_all(body)?;
    linger(client)
}

/// Lets the last bytes arrive before the connection is closed: waits until the other end closes.
pub fn linger(client: &mut TcpStream) -> io::Result<()> {
    client.shutdown(std::net::Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut rest = [0; 4096];
    while client.read(&mut rest)? > 0 {}
    Ok(())
}

/// Makes the kernel send a RST when the connection is closed.
pub fn reset(client: &TcpStream) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = u32::try_from(size_of::<libc::linger>()).unwrap();
    let value = std::ptr::from_ref(&now).cast();
    // SAFETY: a socket of this test, and an option with the right type and size.
    let done = unsafe {
        libc::setsockopt(client.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, size)
    };
    assert_eq!(done, 0);
}

/// The body in chunks of this size, without the last chunk.
pub fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    body.chunks(size).flat_map(chunk).collect()
}

pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}
