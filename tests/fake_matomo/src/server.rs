//! The server: its thread, its sockets, and what tests can change while it runs.

use crate::answer::Answer;
use crate::faults::{Fault, Plan, When};
use crate::handler::handle;
use crate::knobs::Knobs;
use crate::seen::Seen;
use crate::tls::{TlsKind, acceptor};
use crate::world::World;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

pub struct Options {
    pub world: World,
    pub token: String,
    /// `None` means plain HTTP.
    pub tls: Option<TlsKind>,
    /// Address and port; port 0 picks a free one.
    pub bind: String,
}

impl Options {
    /// Plain HTTP on a free port of 127.0.0.1, with the token "secret-token".
    pub fn new(world: World) -> Options {
        let (token, bind) = ("secret-token".to_owned(), "127.0.0.1:0".to_owned());
        Options { world, token, tls: None, bind }
    }
}

/// What runs before each Live answer.
pub type Hook = Box<dyn Fn(&mut World, &Seen) + Send + Sync>;

pub(crate) struct Shared {
    pub world: Mutex<World>,
    pub knobs: Mutex<Knobs>,
    pub faults: Mutex<Plan>,
    pub hook: Mutex<Option<Arc<Hook>>>,
    pub refused: Mutex<usize>,
    /// Answers by request parameters, for the knob `remembers`.
    pub remembered: Mutex<HashMap<String, Answer>>,
    pub token: String,
    pub scheme: &'static str,
    pub under_way: AtomicUsize,
    pub peak: AtomicUsize,
    open: AtomicUsize,
    accepted: AtomicUsize,
    hang_up: Notify,
    requests: Mutex<Vec<(u64, Seen)>>,
    counter: AtomicU64,
}

impl Shared {
    /// Logs a request; returns its number.
    pub fn log(&self, seen: Seen) -> u64 {
        let number = self.counter.fetch_add(1, SeqCst);
        locked(&self.requests).push((number, seen));
        number
    }

    /// Records how a request ended.
    pub fn amend(&self, number: u64, status: u16, fault: Option<String>) {
        if let Some((_, seen)) = locked(&self.requests).iter_mut().rfind(|(n, _)| *n == number) {
            seen.status = status;
            seen.fault = fault;
        }
    }
}

/// Locks even a mutex poisoned by a failed test.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running fake Matomo; dropping it stops it and closes its sockets.
pub struct Fake {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca_pem: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts a server.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn start(options: Options) -> Fake {
        let listener = TcpListener::bind(&options.bind).expect("cannot bind");
        listener.set_nonblocking(true).expect("cannot make the socket non-blocking");
        let address = listener.local_addr().expect("no local address");
        let (ca_pem, acceptor) = match options.tls {
            Some(kind) => {
                let (pem, acceptor) = acceptor(kind).expect("cannot make certificates");
                (pem, Some(acceptor))
            }
            None => (String::new(), None),
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(options.world),
            knobs: Mutex::default(),
            faults: Mutex::default(),
            hook: Mutex::default(),
            refused: Mutex::default(),
            remembered: Mutex::default(),
            token: options.token,
            scheme: if acceptor.is_some() { "https" } else { "http" },
            under_way: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            hang_up: Notify::new(),
            requests: Mutex::default(),
            counter: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(for_thread, listener, acceptor, stopped));
        Fake { shared, address, ca_pem, stop: Some(stop), thread: Some(thread) }
    }

    /// "http://127.0.0.1:PORT" or "https://...", without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://{}", self.shared.scheme, self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn token(&self) -> &str {
        &self.shared.token
    }

    /// The CA's certificate (PEM); "" without TLS.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The locked world: requests wait until the guard is dropped.
    pub fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.shared.world)
    }

    pub fn knobs(&self) -> MutexGuard<'_, Knobs> {
        locked(&self.shared.knobs)
    }

    /// Injects a fault.
    pub fn fail(&self, fault: Fault, when: When) {
        locked(&self.shared.faults).add(fault, when);
    }

    /// Ends all faults and the lockout. Requests that already hang stay hung.
    pub fn heal(&self) {
        locked(&self.shared.faults).clear();
        *locked(&self.shared.refused) = 0;
    }

    /// Runs this before each Live answer is computed, with the world locked (so it must not call
    /// `world()`). It also runs for requests that will be refused.
    pub fn before_each(&self, hook: Hook) {
        *locked(&self.shared.hook) = Some(Arc::new(hook));
    }

    pub fn clear_before_each(&self) {
        *locked(&self.shared.hook) = None;
    }

    /// Serves a recording for a site: visits shaped as Matomo sends them.
    pub fn replace_visits_json(&self, site: i64, visits: Vec<serde_json::Value>) {
        self.world().site_mut(site).replace_visits_json(visits);
    }

    /// All requests so far, in the order received.
    pub fn requests(&self) -> Vec<Seen> {
        locked(&self.shared.requests).iter().map(|(_, seen)| seen.clone()).collect()
    }

    /// Clears the log of requests and the peak.
    pub fn clear_requests(&self) {
        locked(&self.shared.requests).clear();
        self.shared.peak.store(self.shared.under_way.load(SeqCst), SeqCst);
    }

    /// The number of client sockets open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// The number of connections opened since the start.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Closes all client connections and waits until they are closed.
    pub fn hang_up(&self) {
        self.shared.hang_up.notify_waiters();
        while self.open_connections() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The most requests in progress at once since the start or `clear_requests`.
    pub fn peak_requests(&self) -> usize {
        self.shared.peak.load(SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("no runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("no listener");
        tokio::select! {
            _ = stopped => {}
            () = accept(&shared, listener, tls) => {}
        }
    });
    // Hung requests would block the shutdown for ever.
    runtime.shutdown_timeout(Duration::from_secs(2));
}

async fn accept(shared: &Arc<Shared>, listener: tokio::net::TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely out of file descriptors: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let open = Open::new(shared);
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        tokio::spawn(async move {
            let _open = open;
            // Clients that refuse the certificate or disconnect are part of the tests.
            let served = async {
                match tls {
                    None => serve(Arc::clone(&shared), stream).await,
                    Some(tls) => serve(Arc::clone(&shared), tls.accept(stream).await?).await,
                }
            };
            tokio::select! {
                _ = served => {}
                () = shared.hang_up.notified() => {}
            }
        });
    }
}

async fn serve(
    shared: Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> io::Result<()> {
    let service = service_fn(move |request| handle(Arc::clone(&shared), request));
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// Counts a socket as open while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Open {
        shared.open.fetch_add(1, SeqCst);
        shared.accepted.fetch_add(1, SeqCst);
        Open(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}
