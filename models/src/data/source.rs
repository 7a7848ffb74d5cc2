//! A data file as a stream of bytes: decompressed, without a byte-order mark, read once.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use super::{DataError, Place, is_of};

/// Bytes that are read of a file at a time.
const BLOCK: usize = 256 << 10;
/// Bytes of a line, or of a row of a table, at most.
pub(super) const LONGEST: usize = 64 << 20;
/// What a file may begin with that is no part of its text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file that is read.
pub struct Source<'a> {
    /// Its path, for errors.
    pub path: &'a Path,
    /// The columns that are read of it, that of the text first; all of them, if none are given.
    pub columns: Option<&'a [&'a str]>,
    bytes: Box<dyn BufRead + 'a>,
    origin: Origin,
}

/// Where the bytes of a file come from.
enum Origin {
    /// The file as it is.
    File(File),
    Compressed,
    Elsewhere,
}

impl<'a> Source<'a> {
    /// Opens a file of which these columns are read. What is compressed by gzip (of any number of
    /// members) or Zstandard (of any number of frames) is decompressed, whatever the file is called.
    ///
    /// # Errors
    /// It cannot be opened, or is called compressed and is not.
    pub fn open(path: &'a Path, columns: Option<&'a [&'a str]>) -> Result<Self, DataError> {
        let open = || -> io::Result<(Box<dyn BufRead>, Origin)> {
            let mut file = File::open(path)?;
            let mut magic = Vec::new();
            (&mut file).take(4).read_to_end(&mut magic)?;
            file.rewind()?;
            let whole = file.try_clone()?;
            let file = BufReader::with_capacity(BLOCK, file);
            Ok(match magic[..] {
                [0x1f, 0x8b, ..] => {
                    let bytes = flate2::bufread::MultiGzDecoder::new(file);
                    (
                        Box::new(BufReader::with_capacity(BLOCK, bytes)),
                        Origin::Compressed,
                    )
                }
                // A frame, or one to be skipped.
                [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                    let bytes = zstd::Decoder::with_buffer(file)?;
                    (
                        Box::new(BufReader::with_capacity(BLOCK, bytes)),
                        Origin::Compressed,
                    )
                }
                _ => (Box::new(file), Origin::File(whole)),
            })
        };
        let (bytes, origin) = open().map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        match compression(path) {
            Some(name) if matches!(origin, Origin::File(_)) => Err(DataError::Form {
                path: path.to_owned(),
                expected: format!("a file that is compressed by {name}, as its name says"),
                cause: "it begins with other bytes".to_owned(),
            }),
            _ => match Self::new(path, bytes, columns) {
                Ok(source) => Ok(Self { origin, ..source }),
                Err(DataError::Read { path, source }) if matches!(origin, Origin::Compressed) => {
                    let place = Place::Line(0);
                    Err(DataError::Broken {
                        path,
                        place,
                        source,
                    })
                }
                Err(error) => Err(error),
            },
        }
    }

    /// The bytes of a file of this path, of which these columns are read.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(
        path: &'a Path,
        mut bytes: impl BufRead + 'a,
        columns: Option<&'a [&'a str]>,
    ) -> Result<Self, DataError> {
        let mut start = Vec::new();
        let taken = (&mut bytes).take(3).read_to_end(&mut start);
        taken.map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        if start == BYTE_ORDER_MARK {
            start.clear();
        }
        Ok(Self {
            path,
            columns,
            bytes: Box::new(io::Cursor::new(start).chain(bytes)),
            origin: Origin::Elsewhere,
        })
    }

    /// The bytes from where reading stands.
    pub fn bytes(&mut self) -> &mut (dyn BufRead + 'a) {
        &mut *self.bytes
    }

    /// The lines from where reading stands.
    pub fn lines(&mut self) -> Lines<'_> {
        Lines {
            path: self.path,
            bytes: &mut *self.bytes,
            number: 0,
        }
    }

    /// The file itself, to be read in any order from its start; none if it is compressed.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn file(&mut self) -> Result<Option<File>, DataError> {
        let copied = |bytes: &mut dyn BufRead| {
            let mut file = tempfile::tempfile()?;
            io::copy(bytes, &mut file)?;
            file.rewind()?;
            Ok(file)
        };
        let file = match &self.origin {
            Origin::File(file) => file.try_clone(),
            Origin::Compressed => return Ok(None),
            Origin::Elsewhere => copied(&mut *self.bytes),
        };
        file.map(Some).map_err(|source| DataError::Read {
            path: self.path.to_owned(),
            source,
        })
    }

    /// The first byte that is no white space, before which reading stands then; none at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn first_byte(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let block = self.bytes.fill_buf().map_err(|source| DataError::Read {
                path: self.path.to_owned(),
                source,
            })?;
            let blank = block.len() - block.trim_ascii_start().len();
            let (first, is_end) = (block.get(blank).copied(), block.is_empty());
            self.bytes.consume(blank);
            if first.is_some() || is_end {
                return Ok(first);
            }
        }
    }

    /// Whether a column is read; a table may leave others out of its records.
    pub fn reads(&self, column: &str) -> bool {
        self.columns
            .is_none_or(|columns| columns.iter().any(|wanted| is_of(wanted, column)))
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

/// How a file is compressed, by its name.
fn compression(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "gz" => Some("gzip"),
        "zst" => Some("Zstandard"),
        _ => None,
    }
}

/// The lines of a file. Only a line feed ends a line.
pub struct Lines<'a> {
    path: &'a Path,
    bytes: &'a mut dyn BufRead,
    number: usize,
}

impl Lines<'_> {
    /// The number of the line last read, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Puts the next line behind what is in `into`, with its line feed; false at the end.
    ///
    /// # Errors
    /// The file breaks off or is damaged, or the line is too long to be one.
    pub fn read(&mut self, into: &mut Vec<u8>) -> Result<bool, DataError> {
        let room = LONGEST.saturating_sub(into.len()) as u64;
        let found = (&mut *self.bytes).take(room).read_until(b'\n', into);
        let count = found.map_err(|source| DataError::Broken {
            path: self.path.to_owned(),
            place: Place::Line(self.number),
            source,
        })?;
        self.number += usize::from(count > 0);
        match count as u64 == room && into.last() != Some(&b'\n') {
            true => Err(DataError::Form {
                path: self.path.to_owned(),
                expected: format!("a line feed that ends line {}", self.number.max(1)),
                cause: format!("there is none in {} MiB", LONGEST >> 20),
            }),
            false => Ok(count > 0),
        }
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A line without what ends it.
pub fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
