//! CHAP on the side that asks (RFC 7143 section 12.1.3, RFC 1994): one challenge, one verdict.
//!
//! Written apart from the initiator's, so that a mistake in one shows in the other. The challenge
//! comes from the caller, who has the randomness. Deliberately not here: login stages.

use crate::config::{Chap, ChapAlgorithm};
use crate::wire::iscsi::text;
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;

/// What a step of the exchange leads to. Refused: status 0201.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub &'static str);

/// The response to a challenge.
pub(crate) fn response(
    algorithm: ChapAlgorithm,
    id: u8,
    secret: &[u8],
    challenge: &[u8],
) -> Vec<u8> {
    fn hash<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let mut digest = D::new();
        digest.update([id]);
        digest.update(secret);
        digest.update(challenge);
        digest.finalize().to_vec()
    }
    match algorithm {
        ChapAlgorithm::Md5 => hash::<Md5>(id, secret, challenge),
        ChapAlgorithm::Sha1 => hash::<Sha1>(id, secret, challenge),
        ChapAlgorithm::Sha256 => hash::<Sha256>(id, secret, challenge),
        ChapAlgorithm::Sha3 => hash::<Sha3_256>(id, secret, challenge),
    }
}

/// A challenge that is out, and what it was made with.
#[derive(Debug, Clone)]
pub(crate) struct Challenge {
    algorithm: ChapAlgorithm,
    id: u8,
    challenge: Vec<u8>,
}

/// The keys of the initiator's answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answer<'a> {
    pub name: Option<&'a str>,
    pub response: Option<&'a str>,
    pub id: Option<&'a str>,
    pub challenge: Option<&'a str>,
}

impl Challenge {
    /// Takes the first algorithm of the initiator's list that the configuration has.
    pub(crate) fn begin(
        chap: &Chap,
        offered: &str,
        random: [u8; 17],
    ) -> Result<Challenge, Refused> {
        let algorithm = offered
            .split(',')
            .filter_map(|number| ChapAlgorithm::from_number(text::number(number)?))
            .find(|algorithm| chap.algorithms.contains(algorithm))
            .ok_or(Refused("no CHAP algorithm in common"))?;
        Ok(Challenge { algorithm, id: random[0], challenge: random[1..].to_vec() })
    }

    /// The keys that carry it.
    pub(crate) fn keys(&self) -> [(&'static str, String); 3] {
        [
            ("CHAP_A", (self.algorithm as u8).to_string()),
            ("CHAP_I", self.id.to_string()),
            ("CHAP_C", text::hex(&self.challenge)),
        ]
    }

    /// Judges the answer; for a mutual one, gives the name and response that prove this target.
    pub(crate) fn verify(
        &self,
        chap: &Chap,
        answer: &Answer<'_>,
    ) -> Result<Option<(String, String)>, Refused> {
        let name = answer.name.ok_or(Refused("CHAP_N is missing"))?;
        let given = answer.response.ok_or(Refused("CHAP_R is missing"))?;
        let given = text::binary(given, text::BINARY_MAX).map_err(|_| Refused("bad CHAP_R"))?;
        let expect = response(self.algorithm, self.id, &chap.secret, &self.challenge);
        if name != chap.user || !bool::from(given.ct_eq(&expect)) {
            return Err(Refused("wrong CHAP name or secret"));
        }
        let (id, challenge) = match (answer.id, answer.challenge) {
            (None, None) => return Ok(None),
            (Some(id), Some(challenge)) => (id, challenge),
            _ => return Err(Refused("CHAP_I and CHAP_C belong together")),
        };
        let id = text::number_in(id, 0..=255).ok_or(Refused("bad CHAP_I"))? as u8;
        let challenge =
            text::binary(challenge, text::BINARY_MAX).map_err(|_| Refused("bad CHAP_C"))?;
        if challenge == self.challenge {
            return Err(Refused("our own challenge came back"));
        }
        let (name, secret) =
            chap.mutual.as_ref().ok_or(Refused("this target has no secret of its own"))?;
        let proof = response(self.algorithm, id, secret, &challenge);
        Ok(Some((name.clone(), text::hex(&proof))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1994 section 4.1 and the registered algorithm numbers: known answers.
    #[test]
    fn known_answers() {
        let challenge: Vec<u8> = (0..16).collect();
        for (algorithm, expect) in [
            (ChapAlgorithm::Md5, "0x0d0cb60de3f6d983bd962c951ca898ae"),
            (ChapAlgorithm::Sha1, "0x6e2c9614dc4b83ff2416d3434ee2d4c8c261ab9c"),
            (
                ChapAlgorithm::Sha256,
                "0x2281ad2e9ebb353cf3c8e3771137eb3b4de56916a1976fc133a8280603425fbe",
            ),
            (
                ChapAlgorithm::Sha3,
                "0x63c52e1da83996b11b398f86920ba3fad33a853e5a5a849435ec07132096bed9",
            ),
        ] {
            let got = response(algorithm, 0x5a, b"0123456789ABCDEF", &challenge);
            assert_eq!(text::hex(&got), expect);
        }
    }

    fn chap() -> Chap {
        Chap {
            user: "host".to_owned(),
            secret: b"0123456789ABCDEF".to_vec(),
            mutual: Some(("san".to_owned(), b"fedcba9876543210".to_vec())),
            algorithms: vec![ChapAlgorithm::Md5, ChapAlgorithm::Sha256],
        }
    }

    /// RFC 7143 12.1.3: the first algorithm of the initiator's list that both have.
    #[test]
    fn the_initiators_order_counts() {
        let begin = |list| Challenge::begin(&chap(), list, [9; 17]).map(|c| c.algorithm);
        assert_eq!(begin("8,6,7,5"), Ok(ChapAlgorithm::Sha256));
        assert_eq!(begin("5,7"), Ok(ChapAlgorithm::Md5));
        assert!(begin("8,6").is_err() && begin("MD5").is_err() && begin("").is_err());
    }

    /// RFC 7143 9.2.1: wrong name, wrong secret and our own challenge sent back are refused.
    #[test]
    fn only_the_right_answer_is_taken() {
        let chap = chap();
        let challenge = Challenge::begin(&chap, "5", [7; 17]).unwrap();
        let good = text::hex(&response(ChapAlgorithm::Md5, 7, &chap.secret, &[7; 16]));
        let answer = Answer { name: Some("host"), response: Some(&good), ..Answer::default() };
        assert_eq!(challenge.verify(&chap, &answer), Ok(None));
        let mutual = Answer { id: Some("3"), challenge: Some("0x0102"), ..answer };
        let proof = text::hex(&response(ChapAlgorithm::Md5, 3, b"fedcba9876543210", &[1, 2]));
        assert_eq!(challenge.verify(&chap, &mutual), Ok(Some(("san".to_owned(), proof))));
        let same = text::hex(&[7; 16]);
        for bad in [
            Answer { name: Some("other"), ..answer },
            Answer { response: Some("0x00"), ..answer },
            Answer { response: None, ..answer },
            Answer { id: Some("3"), ..answer },
            Answer { challenge: Some(&same), ..mutual },
            Answer { id: Some("256"), ..mutual },
        ] {
            assert!(challenge.verify(&chap, &bad).is_err(), "{bad:?}");
        }
    }
}
