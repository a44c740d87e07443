//! The little of a certificate that is looked at here: its public key, and for how long it holds. Ganeti's own certificates
//! are of X.509 version 1, which rustls does not read.

/// The subject's public key with its algorithm, as DER; `None` when this is no certificate.
pub fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    // Serial number, signature algorithm, issuer, validity, subject.
    let key = field(certificate, 5)?;
    key.content_of(SEQUENCE)?;
    Some(key.whole)
}

/// From when to when it holds, in seconds since 1970; `None` when this is no certificate.
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (from, rest) = Element::read(field(certificate, 3)?.content_of(SEQUENCE)?)?;
    let (to, _) = Element::read(rest)?;
    Some((from.seconds()?, to.seconds()?))
}

/// One of the fields of a certificate, counted from the serial number on.
fn field(certificate: &[u8], at: usize) -> Option<Element<'_>> {
    let (outer, _) = Element::read(certificate)?;
    let (signed, _) = Element::read(outer.content_of(SEQUENCE)?)?;
    let mut rest = signed.content_of(SEQUENCE)?;
    // Version 1 is not written down.
    if rest.first() == Some(&VERSION) {
        rest = Element::read(rest)?.1;
    }
    for _ in 0..at {
        rest = Element::read(rest)?.1;
    }
    Some(Element::read(rest)?.0)
}

const SEQUENCE: u8 = 0x30;
/// The explicit tag of a certificate's version.
const VERSION: u8 = 0xa0;
/// Times, with two and with four digits of the year.
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

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

    /// A time, in seconds since 1970.
    fn seconds(&self) -> Option<i64> {
        let text = str::from_utf8(self.content).ok()?.strip_suffix('Z')?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let (year, rest) = match self.tag {
            UTC_TIME if digits && text.len() == 12 => {
                let year: i64 = text[..2].parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
            }
            GENERALIZED_TIME if digits && text.len() == 14 => (text[..4].parse().ok()?, &text[4..]),
            _ => return None,
        };
        let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
        let days = days_since_1970(year, part(0)?, part(2)?);
        Some(((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?)
    }
}

/// Days of the Gregorian calendar; years begin with March here, so that the odd day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 719_469
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
        assert_eq!(public_key(three.der()), Some(expected.as_slice()));
        for length in 0..three.der().len() {
            assert_eq!(public_key(&three.der()[..length]), None, "{length} bytes of it");
        }
        // The smallest thing with the form of version 1: five values, then the key.
        let one = [0x30, 0x10, 0x30, 0x0e, 2, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 2, 5, 0];
        assert_eq!(public_key(&one), Some(&[0x30, 2, 5, 0][..]));
        assert_eq!(public_key(&[0x30, 0x80]), None, "no certificate has an open length");
        assert_eq!(public_key(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn how_long_it_holds() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let at = |seconds: u64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for (from, to) in [(0, 86_400), (951_782_399, 951_868_800), (1_709_164_800, 4_102_444_800)]
        {
            wanted.not_before = at(from).into();
            wanted.not_after = at(to).into();
            let der = wanted.self_signed(&key).unwrap();
            let expected = Some((i64::try_from(from).unwrap(), i64::try_from(to).unwrap()));
            assert_eq!(validity(der.der()), expected);
        }
        assert_eq!(validity(&[0x30, 2, 0x30, 0]), None);
    }
}
