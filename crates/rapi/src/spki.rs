//! The public key in a certificate. Ganeti's own certificates are of X.509 version 1, which rustls does not read: the little
//! that tells whether a key fits is read here.

/// The subject's public key with its algorithm, as DER; `None` when this is no certificate.
pub(crate) fn of(certificate: &[u8]) -> Option<&[u8]> {
    let (outer, _) = Element::read(certificate)?;
    let (signed, _) = Element::read(outer.content_of(SEQUENCE)?)?;
    let mut rest = signed.content_of(SEQUENCE)?;
    // Version 1 is not written down.
    if rest.first() == Some(&VERSION) {
        rest = Element::read(rest)?.1;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        rest = Element::read(rest)?.1;
    }
    let (key, _) = Element::read(rest)?;
    key.content_of(SEQUENCE)?;
    Some(key.whole)
}

const SEQUENCE: u8 = 0x30;
/// The explicit tag of a certificate's version.
const VERSION: u8 = 0xa0;

/// A value in DER.
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first value, and what follows it.
    fn read(der: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&tag, after) = der.split_first()?;
        let (&first, after) = after.split_first()?;
        let (length, after) = match first {
            0..=0x7f => (usize::from(first), after),
            // As many bytes of length follow; no certificate needs more than four.
            0x81..=0x84 => {
                let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
                (length, after)
            }
            _ => return None,
        };
        let (content, rest) = after.split_at_checked(length)?;
        let whole = &der[..der.len() - rest.len()];
        Some((Self { tag, whole, content }, rest))
    }

    fn content_of(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.content)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn the_key_is_found_in_certificates_of_each_version_and_nowhere_else() {
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let three = signed.self_signed(&key).unwrap();
        let expected = key.subject_public_key_info();
        assert_eq!(of(three.der()), Some(expected.as_slice()));
        for length in 0..three.der().len() {
            assert_eq!(of(&three.der()[..length]), None, "{length} bytes of it");
        }
        // The smallest thing with the form of version 1: five values, then the key.
        let one = [0x30, 0x10, 0x30, 0x0e, 2, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 2, 5, 0];
        assert_eq!(of(&one), Some(&[0x30, 2, 5, 0][..]));
        assert_eq!(of(&[0x30, 0x80]), None, "no certificate has an open length");
        assert_eq!(of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
