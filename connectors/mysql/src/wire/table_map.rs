//! TABLE_MAP events: a table's shape, with everything that `binlog_row_metadata=FULL` tells.
//!
//! The shape is a function of the event's bytes and nothing else, so equal bytes are an equal shape, and an ALTER TABLE shows as
//! other bytes before the first row that was written under it.

use super::{Cursor, DecodeError, bit, bit_from_left};

/// Column types (field_types.h; those above 242 never occur in rows of tables, 140 and 141 are MariaDB's).
pub mod column {
    #![allow(missing_docs, reason = "the names are the servers' own")]
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140;
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// A column's type as rows are written under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnShape {
    /// Name; empty without full metadata.
    pub name: String,
    /// See [`mod@column`]; ENUM and SET as themselves.
    pub ty: u8,
    /// Length in bytes, precision and scale, digits of the second, bits, or bytes of the length; by type.
    pub meta: u16,
    /// Whether it may be null.
    pub nullable: bool,
    /// Whether it is a number without sign.
    pub unsigned: bool,
    /// Collation of a text, or of an ENUM's or SET's labels.
    pub collation: Option<u32>,
    /// Labels of an ENUM or SET, in the column's charset.
    pub labels: Vec<Vec<u8>>,
    /// Kind of a geometry, as in well-known binary.
    pub geometry: Option<u8>,
    /// Whether `SELECT *` shows it.
    pub visible: bool,
}

/// A table as rows are written under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// Columns.
    pub columns: Vec<ColumnShape>,
    /// The primary key's columns, in its order.
    pub key: Vec<usize>,
}

impl TableShape {
    /// Whether the columns' names are known: `binlog_row_metadata=FULL`.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.columns.iter().all(|column| !column.name.is_empty())
    }
}

/// The id and the names of a table, which is all that is needed of one that is not captured.
///
/// # Errors
/// Malformed bytes.
pub fn names(body: &[u8]) -> Result<(u64, &str, &str), DecodeError> {
    let mut cursor = Cursor::new(body, "a table map");
    let id = cursor.uint(6)?;
    cursor.u16()?;
    let database = short_name(&mut cursor)?;
    let table = short_name(&mut cursor)?;
    Ok((id, database, table))
}

fn short_name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, DecodeError> {
    let length = usize::from(cursor.u8()?);
    let bytes = cursor.take(length)?;
    cursor.u8()?;
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Malformed("a table's name"))
}

/// Where a server counts columns of geometries when it tells the collations of texts by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometries {
    /// MySQL: nowhere.
    Apart,
    /// MariaDB: as binary texts, because they are blobs to it (`is_character_type` in log_event_server.cc).
    AmongTexts,
}

/// Reads a table map's body.
///
/// # Errors
/// Malformed bytes, or a column type that is not known.
pub fn decode(body: &[u8], geometries: Geometries) -> Result<TableShape, DecodeError> {
    let mut cursor = Cursor::new(body, "a table map");
    cursor.take(8)?;
    let database = short_name(&mut cursor)?.to_owned();
    let table = short_name(&mut cursor)?.to_owned();
    let width = cursor.count()?;
    let types = cursor.take(width)?;
    let mut metadata = Cursor::new(cursor.lenenc_bytes()?, "a table map's metadata");
    let nulls = cursor.take(width.div_ceil(8))?;
    let mut columns = Vec::with_capacity(width);
    for (index, ty) in types.iter().enumerate() {
        let (ty, meta) = base_type(*ty, &mut metadata)?;
        columns.push(ColumnShape {
            name: String::new(),
            ty,
            meta,
            nullable: bit(nulls, index),
            unsigned: false,
            collation: None,
            labels: Vec::new(),
            geometry: None,
            visible: true,
        });
    }
    let mut shape = TableShape { database, table, columns, key: Vec::new() };
    while !cursor.is_empty() {
        let field = cursor.u8()?;
        optional(&mut shape, geometries, field, cursor.lenenc_bytes()?)?;
    }
    if shape.key.iter().any(|index| *index >= width) {
        return Err(DecodeError::Malformed("a table map's key"));
    }
    Ok(shape)
}

/// The real type and its metadata.
fn base_type(ty: u8, metadata: &mut Cursor<'_>) -> Result<(u8, u16), DecodeError> {
    use column::{
        BIT, BLOB, BLOB_COMPRESSED, DATE, DATETIME, DATETIME2, DOUBLE, ENUM, FLOAT, GEOMETRY, INT24, JSON,
        LONG, LONG_BLOB, LONGLONG, MEDIUM_BLOB, NEWDATE, NEWDECIMAL, SET, SHORT, STRING, TIME, TIME2,
        TIMESTAMP, TIMESTAMP2, TINY, TINY_BLOB, VAR_STRING, VARCHAR, VARCHAR_COMPRESSED, VECTOR, YEAR,
    };
    Ok(match ty {
        TINY | SHORT | LONG | LONGLONG | INT24 | TIMESTAMP | DATE | TIME | DATETIME | YEAR | NEWDATE => {
            (ty, 0)
        }
        FLOAT | DOUBLE | TIMESTAMP2 | DATETIME2 | TIME2 | BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB
        | GEOMETRY | JSON | VECTOR | BLOB_COMPRESSED => (ty, metadata.u8()?.into()),
        VARCHAR | VARCHAR_COMPRESSED | VAR_STRING => (ty, metadata.u16()?),
        BIT => {
            let (bits, bytes) = (u16::from(metadata.u8()?), u16::from(metadata.u8()?));
            (ty, bytes * 8 + bits)
        }
        NEWDECIMAL => {
            let (precision, scale) = (metadata.u8()?, metadata.u8()?);
            if precision < scale || precision > 65 {
                return Err(DecodeError::Malformed("a decimal column"));
            }
            (ty, u16::from_be_bytes([precision, scale]))
        }
        STRING | ENUM | SET => {
            let (high, low) = (metadata.u8()?, metadata.u8()?);
            if ty != STRING {
                (ty, low.into())
            } else if high & 0x30 == 0x30 {
                (high, low.into())
            } else {
                // A CHAR longer than 255 bytes: two bits of its length hide in the type (Field_string::do_save_field_metadata).
                (high | 0x30, u16::from(low) | u16::from((high & 0x30) ^ 0x30) << 4)
            }
        }
        other => return Err(DecodeError::ColumnType(other)),
    })
}

fn is_number(ty: u8) -> bool {
    use column::{DOUBLE, FLOAT, INT24, LONG, LONGLONG, NEWDECIMAL, SHORT, TINY, YEAR};
    matches!(ty, TINY | SHORT | INT24 | LONG | LONGLONG | NEWDECIMAL | FLOAT | DOUBLE | YEAR)
}

fn is_text(ty: u8) -> bool {
    use column::{
        BLOB, BLOB_COMPRESSED, LONG_BLOB, MEDIUM_BLOB, STRING, TINY_BLOB, VAR_STRING, VARCHAR,
        VARCHAR_COMPRESSED, VECTOR,
    };
    matches!(
        ty,
        STRING
            | VAR_STRING
            | VARCHAR
            | BLOB
            | TINY_BLOB
            | MEDIUM_BLOB
            | LONG_BLOB
            | BLOB_COMPRESSED
            | VARCHAR_COMPRESSED
            | VECTOR
    )
}

fn is_text_or_geometry(ty: u8) -> bool {
    is_text(ty) || ty == column::GEOMETRY
}

fn is_labelled(ty: u8) -> bool {
    matches!(ty, column::ENUM | column::SET)
}

/// One piece of optional metadata (`Optional_metadata_field_type`).
fn optional(
    shape: &mut TableShape,
    geometries: Geometries,
    field: u8,
    value: &[u8],
) -> Result<(), DecodeError> {
    let is_text = match geometries {
        Geometries::Apart => is_text,
        Geometries::AmongTexts => is_text_or_geometry,
    };
    let mut cursor = Cursor::new(value, "a table map's optional metadata");
    match field {
        1 => {
            for (index, column) in shape.columns.iter_mut().filter(|c| is_number(c.ty)).enumerate() {
                column.unsigned = bit_from_left(value, index);
            }
        }
        2 => default_collations(shape, is_text, &mut cursor)?,
        3 => each_collation(shape, is_text, &mut cursor)?,
        4 => {
            for column in &mut shape.columns {
                let name = std::str::from_utf8(cursor.lenenc_bytes()?);
                name.map_err(|_| DecodeError::Malformed("a column's name"))?.clone_into(&mut column.name);
            }
        }
        5 => labels(shape, column::SET, &mut cursor)?,
        6 => labels(shape, column::ENUM, &mut cursor)?,
        7 => {
            for column in shape.columns.iter_mut().filter(|c| c.ty == column::GEOMETRY) {
                column.geometry = u8::try_from(cursor.lenenc()?).ok();
            }
        }
        8 | 9 => {
            while !cursor.is_empty() {
                shape.key.push(usize::try_from(cursor.lenenc()?).unwrap_or(usize::MAX));
                if field == 9 {
                    cursor.lenenc()?; // How much of the column the key holds.
                }
            }
        }
        10 => default_collations(shape, is_labelled, &mut cursor)?,
        11 => each_collation(shape, is_labelled, &mut cursor)?,
        12 => {
            for (index, column) in shape.columns.iter_mut().enumerate() {
                column.visible = bit_from_left(value, index);
            }
        }
        // Dimensions of vectors, which their values tell, and what later servers add.
        _ => {}
    }
    Ok(())
}

fn collation(cursor: &mut Cursor<'_>) -> Result<u32, DecodeError> {
    u32::try_from(cursor.lenenc()?).map_err(|_| DecodeError::Malformed("a column's collation"))
}

fn each_collation(
    shape: &mut TableShape,
    of: fn(u8) -> bool,
    cursor: &mut Cursor<'_>,
) -> Result<(), DecodeError> {
    for column in shape.columns.iter_mut().filter(|c| of(c.ty)) {
        column.collation = Some(collation(cursor)?);
    }
    Ok(())
}

/// The most frequent collation, and the columns (counted among those of their sort) that have another one.
fn default_collations(
    shape: &mut TableShape,
    of: fn(u8) -> bool,
    cursor: &mut Cursor<'_>,
) -> Result<(), DecodeError> {
    let most = collation(cursor)?;
    let mut others = Vec::new();
    while !cursor.is_empty() {
        let index = usize::try_from(cursor.lenenc()?).unwrap_or(usize::MAX);
        others.push((index, collation(cursor)?));
    }
    for (index, column) in shape.columns.iter_mut().filter(|c| of(c.ty)).enumerate() {
        let other = others.iter().find(|(at, _)| *at == index);
        column.collation = Some(other.map_or(most, |(_, collation)| *collation));
    }
    Ok(())
}

fn labels(shape: &mut TableShape, ty: u8, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    for column in shape.columns.iter_mut().filter(|c| c.ty == ty) {
        let count = cursor.count()?;
        column.labels =
            (0..count).map(|_| cursor.lenenc_bytes().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
    }
    Ok(())
}
