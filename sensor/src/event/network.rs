//! The connection of a network event.
//!
//! In: addresses and ports. Out: source and destination in ECS terms: the source is local for a connection going out. It
//! never resolves a name.

use std::net::IpAddr;
use std::sync::OnceLock;

use super::Dns;

/// Layer 4 protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Other(u16),
}

impl Transport {
    #[must_use]
    pub fn from_protocol(number: u16) -> Transport {
        match number {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            other => Transport::Other(other),
        }
    }

    /// `network.transport`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Transport::Tcp => Some("tcp"),
            Transport::Udp => Some("udp"),
            Transport::Other(_) => None,
        }
    }
}

/// Who asked for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Egress,
    Ingress,
}

impl Direction {
    /// `network.direction`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `None` while the kernel has not chosen one.
    pub ip: Option<IpAddr>,
    /// `None` while the kernel has not chosen one.
    pub port: Option<u16>,
    address: OnceLock<Option<Box<str>>>,
}

impl Endpoint {
    /// An unspecified address and port 0 mean "not chosen yet". IPv4 inside IPv6 is shown as IPv4.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Endpoint {
        let ip = ip.to_canonical();
        Endpoint {
            ip: Some(ip).filter(|ip| !ip.is_unspecified()),
            port: Some(port).filter(|port| *port != 0),
            address: OnceLock::new(),
        }
    }

    /// The address as text; built when first asked for.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address
            .get_or_init(|| self.ip.map(|ip| ip.to_string().into_boxed_str()))
            .as_deref()
    }
}

/// A connection an event is about.
#[derive(Clone, Debug)]
pub struct Network {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub transport: Transport,
    pub direction: Direction,
    /// The message that was sent or received, where one is known.
    pub dns: Option<Box<Dns>>,
}

impl Network {
    /// `network.type`.
    #[must_use]
    pub fn ip_version(&self) -> Option<&'static str> {
        match self.destination.ip.or(self.source.ip)? {
            IpAddr::V4(_) => Some("ipv4"),
            IpAddr::V6(_) => Some("ipv6"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str, port: u16, address: Option<&str>, shown_port: Option<u16>) {
        let endpoint = Endpoint::new(ip.parse().unwrap(), port);
        assert_eq!(endpoint.address(), address);
        assert_eq!(endpoint.port, shown_port);
    }

    #[test]
    fn ends_of_a_connection() {
        check("203.0.113.5", 4444, Some("203.0.113.5"), Some(4444));
        check("0.0.0.0", 0, None, None);
        check("::", 0, None, None);
        check("::1", 22, Some("::1"), Some(22));
        check("::ffff:127.0.0.1", 80, Some("127.0.0.1"), Some(80));
    }
}
