//! The connector of the chain that adds TLS, as ureq's own does, but with our configuration. No
//! Postgres.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use once_cell::sync::OnceCell;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter, time,
};

use crate::matomo::http::certificates::{self, Certificate};

/// Adds TLS where the URL asks for it.
pub struct TlsConnector {
    /// The certificates to trust; `None` for the system's.
    ca_file: Option<Vec<Certificate>>,
    /// Made with the first connection, as reading the system's CAs takes milliseconds.
    config: OnceCell<Arc<ClientConfig>>,
}

impl TlsConnector {
    /// Trusts these certificates, or the system's.
    pub fn new(ca_file: Option<Vec<Certificate>>) -> TlsConnector {
        TlsConnector { ca_file, config: OnceCell::new() }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let made = Arc::new(certificates::config(self.ca_file.as_deref())?);
        Ok(Arc::clone(self.config.get_or_init(|| made)))
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let tls = self.config()?;
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let host =
            ServerName::try_from(host.to_owned()).map_err(|_| Error::Tls("bad host name"))?;
        let mut connection = ClientConnection::new(tls, host)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(NextTimeout { after: left(details), ..details.timeout });
        connection.complete_io(&mut socket)?;
        let stream = StreamOwned::new(connection, socket);
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

/// Time left to connect after the TCP connection.
fn left(details: &ConnectionDetails) -> time::Duration {
    match (details.timeout.after, details.now) {
        (time::Duration::Exact(after), time::Instant::Exact(began)) => {
            let gone = Instant::now().saturating_duration_since(began);
            time::Duration::Exact(after.saturating_sub(gone))
        }
        (after, _) => after,
    }
}

/// A connection with TLS.
pub struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}
