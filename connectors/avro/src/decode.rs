//! Avro bytes to borrowed values, for bytes that anybody may have written.
//!
//! Malformed input is an error and never a panic: every read is checked against what is left, nothing is allocated by
//! a count found in the input, and nesting is the schema's, which is finite. All bytes must be used up.

use std::{borrow::Cow, sync::Arc};

use rowstream_api::{DatumDecoder, RecordError, Schema, ValueRef};

use crate::{
    layout::{Item, Layout},
    schema_parse::parse_schema,
    wire::{Reader, malformed},
};

/// The most items that may take no bytes at all (records without fields) in one array or map.
const EMPTY_ITEMS_MAX: usize = 65_536;

/// Reads data of one schema.
#[derive(Debug)]
pub struct AvroDecoder {
    schema: Arc<Schema>,
    layout: Layout,
}

impl AvroDecoder {
    /// A reader of what [`EncodePlan`](crate::EncodePlan) writes with this schema.
    #[expect(clippy::new_ret_no_self, reason = "a decoder is only ever used behind the api's trait")]
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Arc<dyn DatumDecoder> {
        let layout = Layout::of_connect(&schema);
        Arc::new(Self { schema, layout })
    }

    /// A reader of what was written with an Avro schema, whoever made it. This is the one for schemas from a registry:
    /// the Connect schema alone does not tell all of a foreign schema's layout.
    ///
    /// # Errors
    /// As [`from_avro_json`](crate::from_avro_json).
    pub fn from_json(json: &str) -> Result<Arc<dyn DatumDecoder>, RecordError> {
        let parsed = parse_schema(json)?;
        Ok(Arc::new(Self { schema: parsed.schema, layout: parsed.layout }))
    }
}

impl DatumDecoder for AvroDecoder {
    fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    fn decode<'a>(&self, bytes: &'a [u8]) -> Result<ValueRef<'a>, RecordError> {
        let mut reader = Reader::new(bytes);
        let value = decode(&self.layout, &mut reader)?;
        finished(reader)?;
        Ok(value)
    }

    fn decode_fields<'a>(&self, bytes: &'a [u8], wanted: &[usize]) -> Result<Vec<ValueRef<'a>>, RecordError> {
        let mut reader = Reader::new(bytes);
        let mut layout = &self.layout;
        if let Layout::Optional { null_branch, value } = layout {
            if is_null(&mut reader, *null_branch)? {
                return Err(malformed("null in place of a record"));
            }
            layout = value;
        }
        let Layout::Record(fields) = layout else { return Err(malformed("a schema that is no record")) };
        let mut values = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            if wanted.contains(&index) {
                decode_into(field, &mut reader, &mut values)?;
            } else {
                skip(field, &mut reader)?;
                values.push(ValueRef::Absent);
            }
        }
        finished(reader)?;
        Ok(values)
    }
}

fn finished(reader: Reader<'_>) -> Result<(), RecordError> {
    if reader.remaining() == 0 { Ok(()) } else { Err(malformed("bytes after its end")) }
}

fn decode<'a>(layout: &Layout, reader: &mut Reader<'a>) -> Result<ValueRef<'a>, RecordError> {
    let mut values = Vec::with_capacity(1);
    decode_into(layout, reader, &mut values)?;
    values.pop().ok_or_else(|| malformed("no value"))
}

/// Adds one value to `values`: made in its place, since moving it there costs more than reading it.
fn decode_into<'a>(
    layout: &Layout,
    reader: &mut Reader<'a>,
    values: &mut Vec<ValueRef<'a>>,
) -> Result<(), RecordError> {
    match layout {
        Layout::Boolean => values.push(ValueRef::Bool(boolean(reader)?)),
        Layout::Int => values.push(ValueRef::Int(int(reader)?)),
        Layout::Long => values.push(ValueRef::Int(reader.long()?)),
        Layout::Float => values.push(ValueRef::Float32(f32::from_le_bytes(reader.array()?))),
        Layout::Double => values.push(ValueRef::Float64(f64::from_le_bytes(reader.array()?))),
        Layout::Bytes => values.push(ValueRef::bytes(reader.bytes()?)),
        Layout::Text => values.push(ValueRef::str(text(reader)?)),
        Layout::Fixed(size) => values.push(ValueRef::bytes(reader.take(*size)?)),
        Layout::Enum(symbols) => {
            let symbol = symbols.get(reader.len()?).ok_or_else(|| malformed("an unknown enum symbol"))?;
            values.push(ValueRef::Str(Cow::Owned(symbol.clone())));
        }
        Layout::Array(item) => {
            let mut items = Vec::new();
            blocks(item, reader, |reader| {
                decode_into(&item.layout, reader, &mut items)?;
                Ok(items.len())
            })?;
            values.push(ValueRef::Array(items));
        }
        Layout::Map(item) => {
            let mut entries = Vec::new();
            blocks(item, reader, |reader| {
                let key = text(reader)?;
                entries.push((Cow::Borrowed(key), decode(&item.layout, reader)?));
                Ok(entries.len())
            })?;
            values.push(ValueRef::Map(entries));
        }
        Layout::Record(fields) => {
            let mut inner = Vec::with_capacity(fields.len());
            for field in fields.iter() {
                decode_into(field, reader, &mut inner)?;
            }
            values.push(ValueRef::Struct(inner));
        }
        Layout::Optional { null_branch, value } => {
            if is_null(reader, *null_branch)? {
                values.push(ValueRef::Null);
            } else {
                decode_into(value, reader, values)?;
            }
        }
    }
    Ok(())
}

fn skip(layout: &Layout, reader: &mut Reader<'_>) -> Result<(), RecordError> {
    match layout {
        Layout::Boolean => boolean(reader).map(drop),
        Layout::Int => int(reader).map(drop),
        Layout::Long | Layout::Enum(_) => reader.long().map(drop),
        Layout::Float => reader.take(4).map(drop),
        Layout::Double => reader.take(8).map(drop),
        Layout::Bytes | Layout::Text => reader.bytes().map(drop),
        Layout::Fixed(size) => reader.take(*size).map(drop),
        Layout::Array(item) => skip_blocks(item, reader, |reader| skip(&item.layout, reader)),
        Layout::Map(item) => skip_blocks(item, reader, |reader| {
            reader.bytes()?;
            skip(&item.layout, reader)
        }),
        Layout::Record(fields) => fields.iter().try_for_each(|field| skip(field, reader)),
        Layout::Optional { null_branch, value } => {
            if is_null(reader, *null_branch)? {
                Ok(())
            } else {
                skip(value, reader)
            }
        }
    }
}

fn boolean(reader: &mut Reader<'_>) -> Result<bool, RecordError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(malformed("a boolean other than 0 and 1")),
    }
}

fn int(reader: &mut Reader<'_>) -> Result<i64, RecordError> {
    let number = reader.long()?;
    if i32::try_from(number).is_ok() { Ok(number) } else { Err(malformed("an int of more than 32 bits")) }
}

#[inline]
fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, RecordError> {
    std::str::from_utf8(reader.bytes()?).map_err(|_| malformed("a string that is not UTF-8"))
}

#[inline]
fn is_null(reader: &mut Reader<'_>, null_branch: usize) -> Result<bool, RecordError> {
    match reader.len()? {
        branch @ (0 | 1) => Ok(branch == null_branch),
        _ => Err(malformed("a union branch other than 0 and 1")),
    }
}

/// Reads each item of each block; `read` answers how many there are by now.
fn blocks<'a>(
    item: &Item,
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<usize, RecordError>,
) -> Result<(), RecordError> {
    loop {
        let count = block(reader)?;
        if count.items == 0 {
            return Ok(());
        }
        for _ in 0..count.items {
            if read(reader)? > EMPTY_ITEMS_MAX && item.may_be_empty {
                return Err(malformed("too many empty items"));
            }
        }
    }
}

fn skip_blocks<'a>(
    item: &Item,
    reader: &mut Reader<'a>,
    mut skip_item: impl FnMut(&mut Reader<'a>) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let mut skipped = 0usize;
    loop {
        let block = block(reader)?;
        if block.items == 0 {
            return Ok(());
        }
        if let Some(bytes) = block.bytes {
            reader.take(bytes)?;
            continue;
        }
        for _ in 0..block.items {
            skip_item(reader)?;
            skipped += 1;
            if skipped > EMPTY_ITEMS_MAX && item.may_be_empty {
                return Err(malformed("too many empty items"));
            }
        }
    }
}

/// A block's head: a negative count says that the block's length in bytes follows.
struct Block {
    items: u64,
    bytes: Option<usize>,
}

fn block(reader: &mut Reader<'_>) -> Result<Block, RecordError> {
    let count = reader.long()?;
    let bytes = if count < 0 { Some(reader.len()?) } else { None };
    Ok(Block { items: count.unsigned_abs(), bytes })
}
