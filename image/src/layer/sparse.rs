//! Sparse files in archives: GNU tar's own format, and PAX 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").

use std::io::BufRead;

use tar::{EntryType, Header};

use super::archive::{BLOCK, Reader};
use super::pax;
use crate::error::Result;

/// Most pieces of one sparse file.
const SPARSE_PIECES: usize = 1 << 20;

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Where the data of a sparse file goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sparse {
    /// Size with the holes.
    pub(crate) real_size: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// What an extended header says of a sparse file.
#[derive(Default)]
pub(super) struct PaxSparse {
    /// 1.0: the map is in front of the data.
    pub(super) map_in_data: bool,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// 0.0 and 0.1: offsets and lengths in turn.
    pub(super) numbers: Vec<u64>,
}

impl<R: BufRead> Reader<R> {
    /// Where the current entry's data goes, if it is a sparse file.
    pub(super) fn sparse(&mut self, header: &Header, pax: PaxSparse) -> Result<Option<Sparse>> {
        let sparse = if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header)?
        } else if pax.map_in_data {
            let numbers = self.sparse_map_in_data()?;
            self.pieces(pax.real_size, &numbers)?
        } else if pax.real_size.is_some() || !pax.numbers.is_empty() {
            self.pieces(pax.real_size, &pax.numbers)?
        } else {
            return Ok(None);
        };
        let mut end = 0;
        let mut stored = 0u64;
        for piece in &sparse.pieces {
            let next = piece.offset.checked_add(piece.length).filter(|next| *next <= sparse.real_size);
            let Some(next) = next.filter(|_| piece.offset >= end) else {
                return Err(self.refused("its sparse map overlaps or leaves the file".to_owned()));
            };
            end = next;
            stored += piece.length;
        }
        if stored != self.data {
            return Err(self.refused("its sparse map does not fit its size".to_owned()));
        }
        Ok(Some(sparse))
    }

    /// The map in the header itself, and in the blocks that follow it (GNU tar's own format).
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse> {
        let wrong = |this: &Self| this.refused("its sparse map is not valid".to_owned());
        let gnu = header.as_gnu().ok_or_else(|| wrong(self))?;
        let real_size = gnu.real_size().map_err(|_| wrong(self))?;
        let mut pieces = vec![];
        let mut add = |this: &Self, map: &[tar::GnuSparseHeader]| {
            for piece in map.iter().filter(|piece| !piece.is_empty()) {
                if pieces.len() == SPARSE_PIECES {
                    return Err(wrong(this));
                }
                let offset = piece.offset().map_err(|_| wrong(this))?;
                pieces.push(Piece { offset, length: piece.length().map_err(|_| wrong(this))? });
            }
            Ok(())
        };
        add(self, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            if !self.read_block(extension.as_mut_bytes())? {
                return Err(self.broken("it ends in a sparse map"));
            }
            add(self, &extension.sparse)?;
            more = extension.is_extended();
        }
        Ok(Sparse { real_size, pieces })
    }

    /// PAX sparse 1.0: decimal numbers, one a line, the first says how many pieces follow; padded to a block.
    fn sparse_map_in_data(&mut self) -> Result<Vec<u64>> {
        let wrong = |this: &Self| this.refused("its sparse map is not valid".to_owned());
        let mut numbers: Vec<u64> = vec![];
        let mut line = vec![];
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            if self.data < BLOCK as u64 || !self.read_block(&mut block)? {
                return Err(wrong(self));
            }
            self.data -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(wrong(self));
                    }
                    continue;
                }
                let number = pax::decimal(&line).ok_or_else(|| wrong(self))?;
                line.clear();
                match wanted {
                    Some(_) => numbers.push(number),
                    None if number <= SPARSE_PIECES as u64 => wanted = Some(number as usize * 2),
                    None => return Err(wrong(self)),
                }
            }
        }
        Ok(numbers)
    }

    fn pieces(&self, real_size: Option<u64>, numbers: &[u64]) -> Result<Sparse> {
        let real_size = real_size.ok_or_else(|| self.refused("its sparse map has no size".to_owned()))?;
        if !numbers.len().is_multiple_of(2) || numbers.len() > SPARSE_PIECES * 2 {
            return Err(self.refused("its sparse map is not valid".to_owned()));
        }
        let pieces = numbers.chunks(2).map(|pair| Piece { offset: pair[0], length: pair[1] }).collect();
        Ok(Sparse { real_size, pieces })
    }
}
