//! Asking a portal for its targets (SendTargets, RFC 7143 section 4.3 and appendix C), from its source.

use super::config::secret::plain;
use super::config::{Address, Config};
use super::connect::Way;
use super::initiator::{AskError, Initiator, credentials};
use super::isid;
use super::plan::{Advertised, Record};
use crate::base::Duration;
use crate::control::config::Chap;
use crate::limits;
use crate::session::{Kind, LoginError, TargetRecord};
use crate::wire::iscsi::{Host, TargetAddress};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Time for a TCP connection, and again for the login and for the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What to ask whom.
#[derive(Clone)]
pub struct Question {
    /// The portal.
    pub portal: Address,
    /// The local address to ask from.
    pub source: Option<IpAddr>,
    /// The interface to ask from.
    pub interface: Option<String>,
    /// Our iSCSI name.
    pub initiator: String,
    /// CHAP of discovery.
    pub chap: Option<Arc<Chap>>,
    /// Where a redirect may lead.
    pub allow: Vec<SocketAddr>,
}

impl Question {
    /// For a portal of the configuration.
    #[must_use]
    pub fn of(config: &Config, portal: usize) -> Question {
        let asked = &config.portals[portal];
        let configured = config.portals.iter().filter_map(|portal| portal.address.socket_addr());
        Question {
            portal: asked.address.clone(),
            source: asked.source,
            interface: asked.interface.clone(),
            initiator: config.initiator_name.clone(),
            chap: asked.discovery_chap.clone(),
            allow: configured.chain(asked.redirect_allow.iter().copied()).collect(),
        }
    }

    fn way(&self, portal: SocketAddr) -> Way {
        Way { portal, source: self.source, interface: self.interface.clone() }
    }
}

/// What a portal said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The address that the portal's name stands for now.
    pub portal: SocketAddr,
    /// Its targets.
    pub records: Vec<Record>,
}

/// Why a portal's name could not be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("portal {name}: its name cannot be looked up: {why}; try: an IP address, or check DNS")]
pub struct ResolveError {
    name: String,
    why: String,
}

/// Why discovery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// An address, and no answer.
    #[error("discovery: {0}")]
    Ask(#[from] AskError),
}

/// Addresses of a portal, those of the source's family only. The first is used by portals that are not asked.
///
/// # Errors
/// When the name has none.
pub async fn resolve_all(
    address: &Address,
    source: Option<IpAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Some(literal) = address.socket_addr() {
        return Ok(vec![literal]);
    }
    let wrong = |why: String| ResolveError { name: address.to_string(), why };
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| wrong(plain(&error)))?;
    let usable = |a: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == a.is_ipv4());
    let found: Vec<SocketAddr> = found.filter(usable).collect();
    match found.is_empty() {
        true => Err(wrong("it has no address of the source's family".to_owned())),
        false => Ok(found),
    }
}

/// The first address of a portal.
///
/// # Errors
/// When its name has none.
pub async fn resolve(
    address: &Address,
    source: Option<IpAddr>,
) -> Result<SocketAddr, ResolveError> {
    Ok(resolve_all(address, source).await?[0])
}

/// Asks a portal for its targets. A name with several addresses is tried in their order.
///
/// # Errors
/// [`DiscoveryError`] of the last address tried.
pub async fn ask(question: &Question) -> Result<Answer, DiscoveryError> {
    let mut failed = None;
    for portal in resolve_all(&question.portal, question.source).await? {
        match ask_at(question, portal).await {
            Ok(records) => return Ok(Answer { portal, records }),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.expect("a portal has at least one address").into())
}

/// Asks at one address, following redirects that are allowed.
async fn ask_at(question: &Question, portal: SocketAddr) -> Result<Vec<Record>, AskError> {
    let mut at = portal;
    let mut been = HashSet::from([portal]);
    loop {
        let way = question.way(at);
        let isid = isid::random().map_err(|error| AskError::System(error.to_string()))?;
        let mut config = crate::session::Config::new(&question.initiator, isid, Kind::Discovery);
        config.chap = credentials(question.chap.as_deref())?;
        config.login_timeout = PATIENCE;
        config.silence_timeout = PATIENCE;
        let error = match Initiator::login(&way, config, PATIENCE).await {
            Ok(mut initiator) => {
                let records = initiator.targets().await?;
                initiator.logout().await;
                return Ok(records.into_iter().map(|r| record(r, at, portal)).collect());
            }
            Err(error) => error,
        };
        let redirect = match &error {
            AskError::Login { error, .. } => match &**error {
                LoginError::Redirect { address, .. } => follow(address, question, &been),
                _ => None,
            },
            _ => None,
        };
        match redirect {
            Some(next) => at = next,
            None => return Err(error),
        }
        been.insert(at);
    }
}

/// Where a redirect leads, if we may go there and have not been there.
fn follow(
    address: &TargetAddress,
    question: &Question,
    been: &HashSet<SocketAddr>,
) -> Option<SocketAddr> {
    let Host::Ip(ip) = &address.host else { return None };
    let next = SocketAddr::new(*ip, address.port);
    let allowed = question.allow.contains(&next) && !been.contains(&next);
    (allowed && been.len() <= limits::REDIRECT_HOPS_MAX as usize).then_some(next)
}

/// A record as the plan wants it. Where a redirect was followed, "where we asked" is where it led.
fn record(record: TargetRecord, at: SocketAddr, portal: SocketAddr) -> Record {
    for address in &record.unusable {
        tracing::warn!(target_name = %record.name, %address, "advertised an address that cannot be understood");
    }
    let advertised = |a: TargetAddress| Advertised {
        host: match a.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name,
        },
        port: a.port,
        portal_group: a.portal_group,
    };
    let mut addresses: Vec<Advertised> = record.addresses.into_iter().map(advertised).collect();
    if addresses.is_empty() && at != portal {
        addresses.push(Advertised {
            host: at.ip().to_string(),
            port: at.port(),
            portal_group: None,
        });
    }
    Record { target: record.name, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::runtime;
    use std::io::Read;
    use std::net::TcpListener;

    fn question(portal: SocketAddr) -> Question {
        Question {
            portal: Address { host: portal.ip().to_string(), port: portal.port() },
            source: Some("127.0.0.1".parse().unwrap()),
            interface: None,
            initiator: "iqn.2026-11.example:i".into(),
            chap: None,
            allow: Vec::new(),
        }
    }

    #[test]
    fn a_portal_that_hangs_up_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap();
        let target = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        });
        let error = runtime::run_plain(ask(&question(portal))).unwrap().unwrap_err().to_string();
        // I bit and Login Request: the first byte of RFC 7143 section 11.12.
        assert_eq!(target.join().unwrap(), 0x43);
        assert!(
            error.starts_with(&format!("discovery: portal {portal} from source 127.0.0.1: ")),
            "{error}"
        );
        assert!(error.contains("during login"), "{error}");
    }

    #[test]
    fn redirects_are_followed_only_where_allowed_and_not_in_circles() {
        let mut question = question("127.0.0.1:1".parse().unwrap());
        let there: SocketAddr = "10.0.0.1:3260".parse().unwrap();
        question.allow = vec![there];
        let to = |text: &str| text.parse::<TargetAddress>().unwrap();
        let none = HashSet::new();
        assert_eq!(follow(&to("10.0.0.1"), &question, &none), Some(there));
        assert_eq!(follow(&to("10.0.0.2"), &question, &none), None);
        assert_eq!(follow(&to("san.example"), &question, &none), None);
        assert_eq!(follow(&to("10.0.0.1"), &question, &HashSet::from([there])), None);
    }

    #[test]
    fn names_that_do_not_exist() {
        let address = Address { host: "no-such-host.invalid".into(), port: 3260 };
        let error = runtime::run_plain(resolve(&address, None)).unwrap().unwrap_err().to_string();
        assert!(
            error.starts_with("portal no-such-host.invalid:3260: its name cannot be looked up: "),
            "{error}"
        );
    }
}
