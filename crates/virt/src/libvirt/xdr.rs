//! The External Data Representation (RFC 4506), as much of it as libvirt's messages need: big-endian integers,
//! strings and opaque data padded to four bytes, optionals as a flag and a value.

/// A message that does not follow its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message from libvirt")]
pub struct Malformed;

/// Longest string or list accepted from the daemon (libvirt's own limit for strings is 4 MiB).
const LONGEST: u32 = 4 << 20;

/// Writes a message body.
#[derive(Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Unsigned 32 bits.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Signed 32 bits.
    pub fn i32(self, value: i32) -> Self {
        self.u32(value.cast_unsigned())
    }

    /// Bytes of a length both sides know.
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its length.
    pub fn string(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.u32(length).fixed(text.as_bytes())
    }

    /// A string that may be absent; here it is present.
    pub fn some_string(self, text: &str) -> Self {
        self.u32(1).string(text)
    }

    /// An absent optional.
    pub fn none(self) -> Self {
        self.u32(0)
    }
}

/// Reads a message body.
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// From the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Unsigned 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Signed 32 bits.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(self.u32()?.cast_signed())
    }

    /// Unsigned 64 bits.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    /// A length or count, bounded.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.u32()?;
        if count > LONGEST {
            Err(Malformed)
        } else {
            Ok(count as usize)
        }
    }

    /// Bytes of a known length.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.take(N)?;
        self.take(N.next_multiple_of(4) - N)?;
        bytes.try_into().map_err(|_| Malformed)
    }

    /// A string with its length; bytes that are not UTF-8 are replaced.
    pub fn string(&mut self) -> Result<String, Malformed> {
        let length = self.count()?;
        let bytes = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// A string that may be absent.
    pub fn optional_string(&mut self) -> Result<Option<String>, Malformed> {
        if self.u32()? == 0 {
            Ok(None)
        } else {
            self.string().map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_encodings() {
        let body = Encoder::default()
            .u32(1)
            .i32(-2)
            .string("abcde")
            .fixed(&[9; 4])
            .some_string("")
            .none()
            .finish();
        let expected: &[u8] = &[
            0, 0, 0, 1, 255, 255, 255, 254, 0, 0, 0, 5, b'a', b'b', b'c', b'd', b'e', 0, 0, 0, 9,
            9, 9, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(body, expected);
        let mut decoder = Decoder::new(&body);
        assert_eq!(decoder.u32(), Ok(1));
        assert_eq!(decoder.i32(), Ok(-2));
        assert_eq!(decoder.string().unwrap(), "abcde");
        assert_eq!(decoder.fixed::<4>(), Ok([9; 4]));
        assert_eq!(decoder.optional_string().unwrap().as_deref(), Some(""));
        assert_eq!(decoder.optional_string(), Ok(None));
        assert_eq!(decoder.u32(), Err(Malformed));
    }

    #[test]
    fn wide_numbers_and_hostile_lengths() {
        assert_eq!(
            Decoder::new(&[0, 0, 0, 1, 0, 0, 0, 2]).u64(),
            Ok((1 << 32) + 2)
        );
        assert_eq!(
            Decoder::new(&[255, 255, 255, 255, 0]).string(),
            Err(Malformed)
        );
        assert_eq!(Decoder::new(&[0, 0, 0, 9, 1, 2]).string(), Err(Malformed));
        assert_eq!(
            Decoder::new(&[0, 0, 0, 1, b'x']).string(),
            Err(Malformed),
            "padding is missing"
        );
        assert_eq!(Decoder::new(&[255, 0, 0, 0]).count(), Err(Malformed));
    }
}
