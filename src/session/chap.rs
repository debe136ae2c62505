//! CHAP (RFC 7143 sections 9.2 and 12.1.3, RFC 1994), one way and mutual: arithmetic and judgement.
//! The order of the exchange is in `login.rs`.
//!
//! The response to a challenge is `H(identifier, secret, challenge)`. Nothing here logs or shows a
//! secret; secrets are overwritten when dropped.

use super::error::{AuthenticationError, shown};
use crate::wire::iscsi::text;
use std::collections::VecDeque;
use std::sync::Mutex;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// Length of the challenges that we send, bytes.
pub const CHALLENGE_LEN: usize = 32;

/// Challenges of ours that are remembered for finding reflections.
const REMEMBERED: usize = 256;

/// Hash functions by their number in `CHAP_A`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// 5: MD5, which every implementation has.
    Md5,
    /// 6: SHA-1.
    Sha1,
    /// 7: SHA-256.
    Sha256,
    /// 8: SHA3-256.
    Sha3_256,
}

impl Algorithm {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Algorithm::Md5 => 5,
            Algorithm::Sha1 => 6,
            Algorithm::Sha256 => 7,
            Algorithm::Sha3_256 => 8,
        }
    }

    /// The algorithm of a number.
    #[must_use]
    pub const fn from_code(code: u64) -> Option<Algorithm> {
        match code {
            5 => Some(Algorithm::Md5),
            6 => Some(Algorithm::Sha1),
            7 => Some(Algorithm::Sha256),
            8 => Some(Algorithm::Sha3_256),
            _ => None,
        }
    }

    /// The response to a challenge.
    #[must_use]
    pub fn respond(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: md5::Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            let mut hash = D::new();
            hash.update([identifier]);
            hash.update(secret);
            hash.update(challenge);
            hash.finalize().to_vec()
        }
        match self {
            Algorithm::Md5 => hash::<md5::Md5>(identifier, secret, challenge),
            Algorithm::Sha1 => hash::<sha1::Sha1>(identifier, secret, challenge),
            Algorithm::Sha256 => hash::<sha2::Sha256>(identifier, secret, challenge),
            Algorithm::Sha3_256 => hash::<sha3::Sha3_256>(identifier, secret, challenge),
        }
    }
}

/// What is offered, in this order. `tgtd` takes 7 for SHA-1 (a number of an early draft) and the first of
/// the list that it knows: 5 must come before 7.
pub const OFFERED: [Algorithm; 4] =
    [Algorithm::Sha3_256, Algorithm::Sha1, Algorithm::Md5, Algorithm::Sha256];

/// Why names and secrets cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// A name that is empty, longer than 255 bytes or has a NUL.
    #[error("a CHAP user name must have 1 to 255 bytes without NUL")]
    Name,
    /// An empty secret.
    #[error("a CHAP secret must not be empty")]
    EmptySecret,
    /// Both directions share a secret (RFC 7143 section 9.2.1).
    #[error("the CHAP secret and the mutual CHAP secret must differ")]
    SameSecret,
}

/// Names and secrets of one portal, shared by all sessions that use them.
pub struct Credentials {
    user: String,
    secret: Zeroizing<Vec<u8>>,
    mutual: Option<(String, Zeroizing<Vec<u8>>)>,
    algorithms: Vec<Algorithm>,
    /// The last challenges that we sent, on any connection.
    issued: Mutex<VecDeque<[u8; CHALLENGE_LEN]>>,
}

impl Credentials {
    /// `user` and `secret` are ours; `mutual` is the target's name and secret, when it must prove itself.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn new(
        user: impl Into<String>,
        secret: impl Into<Vec<u8>>,
        mutual: Option<(String, Vec<u8>)>,
    ) -> Result<Credentials, CredentialsError> {
        let user = user.into();
        let secret = Zeroizing::new(secret.into());
        let mutual = mutual.map(|(name, secret)| (name, Zeroizing::new(secret)));
        let names = core::iter::once(&user).chain(mutual.iter().map(|(name, _)| name));
        for name in names {
            if name.is_empty() || name.len() > text::VALUE_MAX || name.contains('\0') {
                return Err(CredentialsError::Name);
            }
        }
        if secret.is_empty() || mutual.as_ref().is_some_and(|(_, s)| s.is_empty()) {
            return Err(CredentialsError::EmptySecret);
        }
        if mutual.as_ref().is_some_and(|(_, s)| *s == secret) {
            return Err(CredentialsError::SameSecret);
        }
        let algorithms = OFFERED.to_vec();
        Ok(Credentials { user, secret, mutual, algorithms, issued: Mutex::default() })
    }

    /// Offers only these algorithms, in this order.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: &[Algorithm]) -> Credentials {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// Our name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether the target must prove itself.
    #[must_use]
    pub fn is_mutual(&self) -> bool {
        self.mutual.is_some()
    }

    /// Whether a secret is below the 96 bits of RFC 7143 section 9.2.1, which calls for IPsec.
    #[must_use]
    pub fn has_short_secret(&self) -> bool {
        self.secret.len() < 12 || self.mutual.as_ref().is_some_and(|(_, s)| s.len() < 12)
    }

    /// The value of our `CHAP_A`.
    #[must_use]
    pub fn offer(&self) -> String {
        let codes: Vec<String> = self.algorithms.iter().map(|a| a.code().to_string()).collect();
        codes.join(",")
    }

    fn remember(&self, challenge: [u8; CHALLENGE_LEN]) {
        let mut issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if issued.len() == REMEMBERED {
            issued.pop_front();
        }
        issued.push_back(challenge);
    }

    fn is_ours(&self, challenge: &[u8]) -> bool {
        let issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        issued.iter().any(|ours| ours == challenge)
    }
}

impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Credentials({:?}, mutual: {})", self.user, self.is_mutual())
    }
}

/// The keys of one CHAP step as they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub algorithm: Option<String>,
    pub identifier: Option<String>,
    pub challenge: Option<String>,
    pub name: Option<String>,
    pub response: Option<String>,
}

impl Keys {
    pub fn is_empty(&self) -> bool {
        self.algorithm.is_none()
            && self.identifier.is_none()
            && self.challenge.is_none()
            && self.name.is_none()
            && self.response.is_none()
    }
}

/// Our challenge to the target, open until it is answered.
pub(super) struct OwnChallenge {
    pub identifier: u8,
    pub challenge: [u8; CHALLENGE_LEN],
    algorithm: Algorithm,
}

/// Our answer to the target's challenge.
pub(super) struct Answer {
    pub response: Vec<u8>,
    pub own: Option<OwnChallenge>,
}

/// Judges the target's challenge and answers it.
pub(super) fn answer(
    credentials: &Credentials,
    keys: &Keys,
    entropy: &[u8; 64],
) -> Result<Answer, AuthenticationError> {
    use AuthenticationError as E;
    let (Some(algorithm), Some(identifier), Some(challenge), None, None) =
        (&keys.algorithm, &keys.identifier, &keys.challenge, &keys.name, &keys.response)
    else {
        return Err(E::Step("the target's challenge must have CHAP_A, CHAP_I and CHAP_C, no more"));
    };
    let algorithm = text::number(algorithm)
        .and_then(Algorithm::from_code)
        .filter(|a| credentials.algorithms.contains(a))
        .ok_or_else(|| E::Algorithm(shown(algorithm)))?;
    let identifier =
        text::number(identifier).and_then(|n| u8::try_from(n).ok()).ok_or(E::Value("CHAP_I"))?;
    let challenge = text::binary(challenge, text::BINARY_MAX).map_err(|_| E::Value("CHAP_C"))?;
    if credentials.is_ours(&challenge) {
        return Err(E::Reflection);
    }
    let response = algorithm.respond(identifier, &credentials.secret, &challenge);
    let own = credentials.is_mutual().then(|| {
        let own = own_challenge(algorithm, &challenge, entropy);
        credentials.remember(own.challenge);
        own
    });
    Ok(Answer { response, own })
}

/// A challenge that differs from the target's (RFC 7143 section 9.2.1).
fn own_challenge(algorithm: Algorithm, theirs: &[u8], entropy: &[u8; 64]) -> OwnChallenge {
    let mut challenge = [0; CHALLENGE_LEN];
    challenge.copy_from_slice(&entropy[8..8 + CHALLENGE_LEN]);
    if challenge == theirs {
        for (byte, fresh) in challenge.iter_mut().zip(&entropy[8 + CHALLENGE_LEN..]) {
            *byte ^= fresh | 1;
        }
    }
    assert!(challenge != theirs, "our challenge equals the target's");
    OwnChallenge { identifier: entropy[4], challenge, algorithm }
}

/// Judges the target's answer to our challenge.
pub(super) fn verify(
    credentials: &Credentials,
    own: &OwnChallenge,
    keys: &Keys,
) -> Result<(), AuthenticationError> {
    use AuthenticationError as E;
    let (None, None, None, Some(name), Some(response)) =
        (&keys.algorithm, &keys.identifier, &keys.challenge, &keys.name, &keys.response)
    else {
        return Err(E::Step("the target's answer must have CHAP_N and CHAP_R, no more"));
    };
    let (expected_name, secret) =
        credentials.mutual.as_ref().ok_or(E::Step("an answer that was not asked for"))?;
    if name != expected_name {
        return Err(E::Name(shown(name)));
    }
    let response = text::binary(response, text::BINARY_MAX).map_err(|_| E::Value("CHAP_R"))?;
    let by = |secret: &[u8]| own.algorithm.respond(own.identifier, secret, &own.challenge);
    if bool::from(response.ct_eq(&by(&credentials.secret))) {
        return Err(E::OwnSecret);
    }
    if bool::from(response.ct_eq(&by(secret))) { Ok(()) } else { Err(E::Response) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789ABCDEF";

    fn keys(a: &str, i: &str, c: &str) -> Keys {
        Keys {
            algorithm: Some(a.into()),
            identifier: Some(i.into()),
            challenge: Some(c.into()),
            ..Keys::default()
        }
    }

    /// RFC 1994 4.1: responses of the four hash functions.
    #[test]
    fn vectors() {
        let challenge: Vec<u8> = (0..16).collect();
        for (algorithm, expected) in [
            (Algorithm::Md5, "0x0d0cb60de3f6d983bd962c951ca898ae"),
            (Algorithm::Sha1, "0x6e2c9614dc4b83ff2416d3434ee2d4c8c261ab9c"),
            (
                Algorithm::Sha256,
                "0x2281ad2e9ebb353cf3c8e3771137eb3b4de56916a1976fc133a8280603425fbe",
            ),
            (
                Algorithm::Sha3_256,
                "0x63c52e1da83996b11b398f86920ba3fad33a853e5a5a849435ec07132096bed9",
            ),
        ] {
            assert_eq!(text::hex(&algorithm.respond(0x5a, SECRET, &challenge)), expected);
            assert_eq!(Algorithm::from_code(algorithm.code().into()), Some(algorithm));
        }
    }

    /// RFC 7143 12.1.3: values of the target's challenge.
    #[test]
    fn challenges() {
        let c = Credentials::new("u", SECRET, None).expect("good");
        assert_eq!(c.offer(), "8,6,5,7");
        let entropy = [7; 64];
        let hex = "0x000102030405060708090a0b0c0d0e0f";
        for form in [hex, "0X000102030405060708090A0B0C0D0E0F", "0bAAECAwQFBgcICQoLDA0ODw=="] {
            let answer = answer(&c, &keys("5", "0x5a", form), &entropy).expect("good");
            assert_eq!(text::hex(&answer.response), "0x0d0cb60de3f6d983bd962c951ca898ae");
            assert!(answer.own.is_none());
        }
        for (a, i, v) in [
            ("9", "1", hex),
            ("0", "1", hex),
            ("MD5", "1", hex),
            ("5,7", "1", hex),
            ("5", "256", hex),
            ("5", "x", hex),
            ("5", "1", "0x"),
            ("5", "1", "00"),
            ("5", "1", &format!("0x{}", "0".repeat(2050))),
        ] {
            assert!(answer(&c, &keys(a, i, v), &entropy).is_err(), "{a} {i} {v}");
        }
        assert!(
            answer(&c, &keys("5", "255", &format!("0x{}", "0".repeat(2048))), &entropy).is_ok()
        );
        let md5 =
            Credentials::new("u", SECRET, None).expect("good").with_algorithms(&[Algorithm::Md5]);
        assert!(matches!(
            answer(&md5, &keys("7", "1", hex), &entropy),
            Err(AuthenticationError::Algorithm(_))
        ));
        let extra = Keys { name: Some("n".into()), ..keys("5", "1", hex) };
        assert!(matches!(answer(&c, &extra, &entropy), Err(AuthenticationError::Step(_))));
        let missing = Keys { identifier: None, ..keys("5", "1", hex) };
        assert!(matches!(answer(&c, &missing, &entropy), Err(AuthenticationError::Step(_))));
    }

    /// RFC 7143 9.2.1: the target must prove itself, with its own secret, for our challenge.
    #[test]
    fn mutual() {
        let c = Credentials::new("u", SECRET, Some(("t".into(), b"another secret!!".to_vec())))
            .expect("good");
        let mut entropy = [0; 64];
        for (i, byte) in entropy.iter_mut().enumerate() {
            *byte = i as u8;
        }
        let theirs = text::hex(&entropy[8..40]);
        let answer = answer(&c, &keys("7", "1", &theirs), &entropy).expect("good");
        let own = answer.own.expect("mutual");
        assert_ne!(own.challenge[..], entropy[8..40], "the target's challenge is not used again");
        let with = |name: &str, response: &[u8]| Keys {
            name: Some(name.into()),
            response: Some(text::hex(response)),
            ..Keys::default()
        };
        let good = Algorithm::Sha256.respond(own.identifier, b"another secret!!", &own.challenge);
        assert_eq!(verify(&c, &own, &with("t", &good)), Ok(()));
        assert_eq!(verify(&c, &own, &with("x", &good)), Err(AuthenticationError::Name("x".into())));
        let ours = Algorithm::Sha256.respond(own.identifier, SECRET, &own.challenge);
        assert_eq!(verify(&c, &own, &with("t", &ours)), Err(AuthenticationError::OwnSecret));
        for bad in [&good[1..], &[good.clone(), vec![0]].concat(), &[0; 32]] {
            assert_eq!(verify(&c, &own, &with("t", bad)), Err(AuthenticationError::Response));
        }
        let other = Algorithm::Sha256.respond(9, b"another secret!!", &own.challenge);
        assert_eq!(verify(&c, &own, &with("t", &other)), Err(AuthenticationError::Response));
        // Our challenge, played back on any connection with these credentials.
        let reflected = text::base64(&own.challenge);
        assert!(matches!(
            super::answer(&c, &keys("7", "1", &reflected), &[9; 64]),
            Err(AuthenticationError::Reflection)
        ));
    }

    /// RFC 7143 9.2, RFC 1994 2.3: each login has an identifier and a challenge of its own, from its own
    /// entropy; a secret of any bytes counts whole.
    #[test]
    fn every_login_challenges_anew() {
        let c = Credentials::new("u", vec![0, 0xff, 0, 1], Some(("t".into(), b"x".to_vec())))
            .expect("good");
        let mut seen = std::collections::HashSet::new();
        for n in 0..1000_u32 {
            let mut entropy = [0xa5; 64];
            entropy[4] = n as u8;
            entropy[20..24].copy_from_slice(&n.to_be_bytes());
            let answer = answer(&c, &keys("5", "1", "0x01"), &entropy).expect("good");
            let own = answer.own.expect("mutual");
            assert_eq!(own.identifier, n as u8);
            assert!(seen.insert(own.challenge), "a challenge came twice");
            assert_eq!(answer.response, Algorithm::Md5.respond(1, &[0, 0xff, 0, 1], &[1]));
        }
    }

    /// RFC 7143 9.2.1: what configuration must not contain; nothing shows a secret.
    #[test]
    fn credentials() {
        let same = Credentials::new("u", SECRET, Some(("t".into(), SECRET.to_vec())));
        assert_eq!(same.err(), Some(CredentialsError::SameSecret));
        assert_eq!(Credentials::new("u", "", None).err(), Some(CredentialsError::EmptySecret));
        assert_eq!(Credentials::new("", "x", None).err(), Some(CredentialsError::Name));
        let binary = Credentials::new("u", vec![0, 0xff, 3], None).expect("whole bytes");
        assert!(binary.has_short_secret());
        assert!(!Credentials::new("u", SECRET, None).expect("good").has_short_secret());
        let shown = format!("{:?}", Credentials::new("u", SECRET, None).expect("good"));
        assert!(!shown.contains("0123"), "{shown}");
    }
}
