//! Rows and envelopes: logical values, missing values, keys, errors.

use std::sync::Arc;

use rowstream_api::{
    Op, RecordError, RowView, Schema, SchemaBuilder, SchemaType, Stage, TableSchema, Value, ValueRef,
};
use rowstream_avro::{AvroDecoder, EncodePlan, EnvelopePlan, Event, from_avro_json, to_avro_json};

use crate::support::golden;

struct Row {
    schema: Arc<Schema>,
    values: Vec<ValueRef<'static>>,
}

impl RowView for Row {
    fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }
    fn column(&self, index: usize) -> Result<ValueRef<'_>, RecordError> {
        Ok(self.values[index].clone())
    }
}

fn of(ty: SchemaType) -> SchemaBuilder {
    SchemaBuilder::new(ty)
}

fn decimal(scale: i32) -> SchemaBuilder {
    of(SchemaType::Bytes).name("org.apache.kafka.connect.data.Decimal").parameter("scale", scale.to_string())
}

fn encoded(schema: &Arc<Schema>, value: &ValueRef<'_>) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    EncodePlan::compile(schema).encode_value(value, &mut out).map_err(|error| error.code)?;
    Ok(out)
}

/// The golden table's own schemas as a source would supply them.
fn golden_table(name: &str) -> (Arc<TableSchema>, Vec<Vec<u8>>) {
    let table = golden().into_iter().find(|table| table.name == name).unwrap();
    let mut schemas = table.schemas.iter();
    let (key_id, key) = schemas.next().unwrap();
    let (value_id, envelope) = schemas.next().unwrap();
    let key = from_avro_json(key).unwrap();
    let envelope = from_avro_json(envelope).unwrap();
    let value = envelope.field("after").unwrap().1.schema.clone();
    let key_columns = key.fields().iter().map(|field| value.field(&field.name).unwrap().0).collect();
    assert!(table.data.iter().all(|(id, _)| id == key_id || id == value_id));
    let data = table.data.into_iter().filter(|(id, _)| id == value_id).map(|(_, bytes)| bytes).collect();
    let table = TableSchema { topic: name.into(), key: Some(key), key_columns, value, envelope };
    (Arc::new(table), data)
}

/// Encodes golden snapshot records from logical values and expects Debezium's bytes.
fn expect_golden(name: &str, logical: &[ValueRef<'static>]) {
    let (table, data) = golden_table(name);
    let plan = EnvelopePlan::compile(&table);
    let decoder = AvroDecoder::new(table.envelope.clone());
    for (at, (bytes, logical)) in data.iter().zip(logical).enumerate() {
        let envelope = decoder.decode(bytes).unwrap();
        let [_, _, source, _, op, _, ts_us, ts_ns] = envelope.as_struct().unwrap() else { panic!() };
        assert_eq!(op.as_str(), Some("r"));
        let id = i64::try_from(at).unwrap() + 1;
        let row = Row { schema: table.value.clone(), values: vec![ValueRef::Int(id), logical.clone()] };
        let event = Event {
            op: Op::Read,
            before: None,
            after: Some(&row),
            source: source.as_struct().unwrap(),
            now_us: ts_us.as_int().unwrap(),
        };
        let mut out = Vec::new();
        let mut unavailable = Vec::new();
        plan.encode_envelope(&event, &mut out, &mut unavailable).unwrap();
        assert!(unavailable.is_empty());
        // Debezium's clock has nanoseconds, ours microseconds: the last field differs below that.
        let (ours, theirs) = (decoder.decode(&out).unwrap(), ts_ns.as_int().unwrap());
        assert_eq!(ours.as_struct().unwrap()[7].as_int().unwrap(), theirs - theirs % 1000);
        let tail = out.len() - 9;
        assert_eq!(out[..tail], bytes[..tail], "{name} row {id}");

        let mut key = Vec::new();
        plan.encode_key(&row, &mut key).unwrap();
        assert_eq!(key, [u8::try_from(id).unwrap() * 2]);
    }
}

#[test]
fn logical_values_give_debeziums_bytes() {
    let decimals = |texts: &[&'static str]| -> Vec<_> {
        texts.iter().map(|text| ValueRef::Decimal((*text).into())).collect()
    };
    let free = [
        "0",
        "1",
        "-1",
        "1.50",
        "100",
        "10000000000",
        "0.000000000000000000000000000001",
        "-12345678901234567890.123456789012345678901234567890",
    ];
    let mut free = decimals(&free);
    free.push(ValueRef::Decimal(format!("1{}", "0".repeat(100)).into()));
    free.push(ValueRef::Decimal("123456789012345678901234567890".into()));
    free.push(ValueRef::Null);
    expect_golden("postgres:ty.t_numeric_free", &free);
    let mut fixed =
        decimals(&["0.00", "0.01", "-0.01", "1.50", "99999999.99", "-99999999.99", "1.01", "12345678.90"]);
    fixed.push(ValueRef::Null);
    expect_golden("postgres:ty.t_numeric_10_2", &fixed);
    let micros = [
        0,
        -1,
        1_795_257_296_789_123,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
        1_774_747_800_000_000,
        1_795_264_440_000_000,
        1_795_264_496_100_000,
    ];
    let mut instants: Vec<_> = micros.into_iter().map(ValueRef::ZonedMicros).collect();
    instants.push(ValueRef::Null);
    expect_golden("postgres:ty.t_timestamptz", &instants);
    expect_golden("postgres:ty.t_bytea", &["", "00", "00fF80", "DEADbeef"].map(ValueRef::Hex));
}

fn wide_row() -> Arc<Schema> {
    let text = of(SchemaType::String).optional().build();
    SchemaBuilder::structure()
        .name("s.t.Value")
        .field("id", of(SchemaType::Int32).build())
        .field("text", text.clone())
        .field("bytes", of(SchemaType::Bytes).build())
        .field("tags", of(SchemaType::Array(text.clone())).build())
        .field("numbers", of(SchemaType::Array(of(SchemaType::Int32).build())).optional().build())
        .field("price", decimal(2).build())
        .field("attributes", of(SchemaType::Map(text)).optional().build())
        .field("state", of(SchemaType::String).optional().default_value(Value::Str("new".into())).build())
        .build()
}

#[test]
fn unavailable_columns_hold_placeholders_and_are_reported() {
    let schema = wide_row();
    let mut values = vec![ValueRef::Unavailable; 8];
    values[0] = ValueRef::Int(1);
    let row = Row { schema: schema.clone(), values };
    let (mut out, mut unavailable) = (Vec::new(), vec![99]);
    EncodePlan::compile(&schema).encode_row(&row, &mut out, &mut unavailable).unwrap();
    assert_eq!(unavailable, [99, 1, 2, 3, 4, 5, 6, 7]);
    let placeholder = ValueRef::str("__debezium_unavailable_value");
    let expected = ValueRef::Struct(vec![
        ValueRef::Int(1),
        placeholder.clone(),
        ValueRef::bytes(b"__debezium_unavailable_value"),
        ValueRef::Array(vec![placeholder.clone()]),
        ValueRef::Null,
        ValueRef::bytes(&[0]),
        ValueRef::Map(vec![("__debezium_unavailable_value".into(), placeholder.clone())]),
        placeholder,
    ]);
    assert_eq!(AvroDecoder::new(schema).decode(&out).unwrap(), expected);
}

#[test]
fn absent_columns_are_null_or_default_or_zero() {
    let required = |ty| of(ty).build();
    let text_default = of(SchemaType::String).default_value(Value::Str("x".into()));
    let schema = SchemaBuilder::structure()
        .field("text", required(SchemaType::String))
        .field("default", text_default.clone().build())
        .field("nullable", text_default.optional().build())
        .field("flag", required(SchemaType::Boolean))
        .field("double", required(SchemaType::Float64))
        .field("price", decimal(2).build())
        .field("list", required(SchemaType::Array(required(SchemaType::Int32))))
        .field("short", of(SchemaType::Float32).default_value(Value::Float(0.5)).build())
        .build();
    let row = Row { schema: schema.clone(), values: vec![ValueRef::Absent; 8] };
    let (mut out, mut unavailable) = (Vec::new(), Vec::new());
    EncodePlan::compile(&schema).encode_row(&row, &mut out, &mut unavailable).unwrap();
    assert!(unavailable.is_empty());
    let expected = ValueRef::Struct(vec![
        ValueRef::str(""),
        ValueRef::str("x"),
        ValueRef::Null,
        ValueRef::Bool(false),
        ValueRef::Float64(0.0),
        ValueRef::bytes(&[0]),
        ValueRef::Array(vec![]),
        ValueRef::Float32(0.5),
    ]);
    assert_eq!(AvroDecoder::new(schema).decode(&out).unwrap(), expected);
}

#[test]
fn an_explicit_null_stays_null_where_there_is_a_default() {
    let schema = of(SchemaType::Int32).optional().default_value(Value::Int(7)).build();
    assert_eq!(encoded(&schema, &ValueRef::Null), Ok(vec![2]));
    assert_eq!(encoded(&schema, &ValueRef::Int(5)), Ok(vec![0, 10]));
    assert_eq!(to_avro_json(&schema), r#"[{"type":"int","connect.default":7},"null"]"#);
}

#[test]
fn a_bad_column_is_named_and_leaves_no_bytes() {
    let schema = wide_row();
    let good = vec![
        ValueRef::Int(1),
        ValueRef::Unavailable,
        ValueRef::Hex("00"),
        ValueRef::Array(vec![]),
        ValueRef::Null,
        ValueRef::Decimal("1.5".into()),
        ValueRef::Null,
        ValueRef::Null,
    ];
    let cases = [
        (0, ValueRef::Int(i64::from(i32::MAX) + 1), "VALUE_OUT_OF_RANGE", "`id`"),
        (0, ValueRef::Null, "NULL_NOT_ALLOWED", "`id`"),
        (1, ValueRef::Int(1), "VALUE_TYPE_MISMATCH", "`text`"),
        (2, ValueRef::Hex("0"), "VALUE_TYPE_MISMATCH", "`bytes`"),
        (2, ValueRef::Hex("0g"), "VALUE_TYPE_MISMATCH", "`bytes`"),
        (4, ValueRef::Array(vec![ValueRef::Null]), "NULL_NOT_ALLOWED", "`numbers`"),
        (5, ValueRef::Decimal("1.234".into()), "VALUE_OUT_OF_RANGE", "`price`"),
        (5, ValueRef::Decimal("NaN".into()), "VALUE_NOT_REPRESENTABLE", "`price`"),
    ];
    let plan = EncodePlan::compile(&schema);
    for (column, value, code, name) in cases {
        let mut values = good.clone();
        values[column] = value;
        let row = Row { schema: schema.clone(), values };
        let (mut out, mut unavailable) = (b"earlier".to_vec(), vec![3]);
        let error = plan.encode_row(&row, &mut out, &mut unavailable).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(name), "{error}");
        assert_eq!((out.as_slice(), unavailable.as_slice()), (b"earlier".as_slice(), [3].as_slice()));
    }
}

#[test]
fn keys_are_never_written_from_missing_values() {
    let (table, _) = golden_table("postgres:sem.pk2");
    let plan = EnvelopePlan::compile(&table);
    // Columns are b, n, a; the key is (a, b).
    let row = |b, a| Row { schema: table.value.clone(), values: vec![b, ValueRef::Null, a] };
    let mut out = Vec::new();
    plan.encode_key(&row(ValueRef::str("x"), ValueRef::Int(1)), &mut out).unwrap();
    assert_eq!(out, [2, 2, b'x']);
    for missing in [ValueRef::Unavailable, ValueRef::Absent, ValueRef::Null] {
        let error = plan.encode_key(&row(missing, ValueRef::Int(1)), &mut out).unwrap_err();
        assert_eq!(error.stage, Stage::KeyConverter);
        assert!(error.message.contains("`b`"), "{error}");
        assert_eq!(out, [2, 2, b'x']);
    }
}

#[test]
fn an_envelope_without_images_and_with_a_wrong_source() {
    let (table, data) = golden_table("postgres:ty.t_int8");
    let plan = EnvelopePlan::compile(&table);
    let decoder = AvroDecoder::new(table.envelope.clone());
    let sample = decoder.decode(&data[0]).unwrap();
    let source = sample.as_struct().unwrap()[2].as_struct().unwrap();
    let event = Event { op: Op::Truncate, before: None, after: None, source, now_us: -1 };
    let (mut out, mut unavailable) = (Vec::new(), Vec::new());
    plan.encode_envelope(&event, &mut out, &mut unavailable).unwrap();
    let decoded = decoder.decode(&out).unwrap();
    let fields = decoded.as_struct().unwrap();
    assert_eq!(fields[..2], [ValueRef::Null, ValueRef::Null]);
    assert_eq!(fields[4..], [ValueRef::str("t"), ValueRef::Int(-1), ValueRef::Int(-1), ValueRef::Int(-1000)]);

    let short = Event { source: &source[1..], ..event };
    out.clear();
    assert!(plan.encode_envelope(&short, &mut out, &mut unavailable).unwrap_err().message.contains("source"));
    assert!(out.is_empty());

    // An old row's placeholder is not reported: only the new row's columns are left alone downstream.
    let row = |v| Row { schema: table.value.clone(), values: vec![ValueRef::Int(1), v] };
    let (before, after) = (row(ValueRef::Unavailable), row(ValueRef::Unavailable));
    let update = Event { op: Op::Update, before: Some(&before), after: Some(&after), ..event };
    plan.encode_envelope(&update, &mut out, &mut unavailable).unwrap();
    assert_eq!(unavailable, [1]);
}

#[test]
fn schemas_with_every_attribute_read_as_avrodata_writes_them() {
    let schema = SchemaBuilder::structure()
        .name("shop-1.public.a b.Value")
        .doc("the table")
        .version(2)
        .field("a-b", of(SchemaType::Int16).default_value(Value::Int(5)).build())
        .field("a.b", of(SchemaType::Bytes).default_value(Value::Bytes(vec![0x61, 0xff])).build())
        .field("price", decimal(-2).optional().build())
        .field("day", of(SchemaType::Int32).name("org.apache.kafka.connect.data.Date").version(1).build())
        .field("f", of(SchemaType::Float32).default_value(Value::Float(f64::from(0.1f32))).build())
        .build();
    let json = to_avro_json(&schema);
    let expected = r#"{"type":"record","name":"Value","namespace":"shop_1.public.a_b","fields":[{"name":"a_b","type":{"type":"int","connect.default":5,"connect.type":"int16"},"default":5},{"name":"a_b_2","type":{"type":"bytes","connect.default":"aÿ"},"default":"aÿ"},{"name":"price","type":["null",{"type":"bytes","scale":-2,"precision":64,"connect.parameters":{"scale":"-2"},"connect.name":"org.apache.kafka.connect.data.Decimal"}],"default":null},{"name":"day","type":{"type":"int","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Date","logicalType":"date"}},{"name":"f","type":{"type":"float","connect.default":0.1},"default":0.1}],"connect.doc":"the table","connect.version":2,"connect.name":"shop_1.public.a_b.Value"}"#;
    assert_eq!(json, expected);
    assert_eq!(to_avro_json(&from_avro_json(&json).unwrap()), json);
    apache_avro::Schema::parse_str(&json).unwrap();
}

#[test]
fn a_struct_used_twice_is_defined_once_whatever_its_defaults() {
    let free = SchemaBuilder::structure()
        .name("io.debezium.data.VariableScaleDecimal")
        .version(1)
        .field("scale", of(SchemaType::Int32).build())
        .field("value", of(SchemaType::Bytes).build());
    let zero = Value::Struct(vec![Value::Int(0), Value::Bytes(vec![0])]);
    let schema = SchemaBuilder::structure()
        .name("s.t.Value")
        .field("a", free.clone().default_value(zero.clone()).build())
        .field("b", free.clone().build())
        .field("c", free.clone().optional().build())
        .field("d", free.optional().default_value(zero).build())
        .build();
    let json = to_avro_json(&schema);
    assert_eq!(json.matches(r#""name":"VariableScaleDecimal""#).count(), 1);
    apache_avro::Schema::parse_str(&json).unwrap();
    assert_eq!(from_avro_json(&json).unwrap(), schema);
}

#[test]
fn structs_of_one_name_and_different_fields_get_names_of_their_own() {
    let point = |field: &str| {
        SchemaBuilder::structure().name("geo.Point").field(field, of(SchemaType::Float64).build()).build()
    };
    let schema = SchemaBuilder::structure()
        .name("s.t.Value")
        .field("a", point("x"))
        .field("b", point("y"))
        .field("c", point("x"))
        .build();
    let json = to_avro_json(&schema);
    apache_avro::Schema::parse_str(&json).unwrap();
    assert!(json.contains(r#""name":"Point2","namespace":"geo""#), "{json}");
    assert!(json.contains(r#"{"name":"c","type":"geo.Point"}"#), "{json}");
    assert_eq!(from_avro_json(&json).unwrap(), schema);
}

#[test]
fn a_name_without_a_namespace_says_so_inside_of_one() {
    let plain = SchemaBuilder::structure().name("b").field("x", of(SchemaType::Int32).build()).build();
    let schema = SchemaBuilder::structure()
        .name("ys.if.b")
        .field("first", plain.clone())
        .field("second", plain.to_builder().optional().build())
        .build();
    let json = to_avro_json(&schema);
    assert!(json.contains(r#""name":"b","namespace":"","fields""#), "{json}");
    assert!(json.contains(r#""name":"b2","namespace":"","fields""#), "no reference could mean it: {json}");
    assert_eq!(from_avro_json(&json).unwrap(), schema);
    let inner = || ValueRef::Struct(vec![ValueRef::Int(7)]);
    let value = ValueRef::Struct(vec![inner(), inner()]);
    assert_eq!(
        AvroDecoder::from_json(&json).unwrap().decode(&encoded(&schema, &value).unwrap()).unwrap(),
        value
    );
}

#[test]
fn a_foreign_schema_reads_as_connect_would_read_it() {
    let json = r#"{"type":"record","name":"Order","namespace":"shop","doc":"an order","fields":[
        {"name":"state","type":{"type":"enum","name":"State","symbols":["NEW","DONE"]}},
        {"name":"hash","type":{"type":"fixed","name":"Hash","size":2}},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
        {"name":"at","type":["long","null"]},
        {"name":"day","type":{"type":"int","logicalType":"date"}}]}"#;
    let decoder = AvroDecoder::from_json(json).unwrap();
    let schema = decoder.schema();
    assert_eq!(schema.name(), Some("shop.Order"));
    assert_eq!(schema.field("price").unwrap().1.schema.parameter("connect.decimal.precision"), Some("10"));
    assert_eq!(
        schema.field("price").unwrap().1.schema.semantic(),
        rowstream_api::Semantic::Decimal { scale: 2 }
    );
    assert_eq!(schema.field("day").unwrap().1.schema.semantic(), rowstream_api::Semantic::Date);
    assert!(schema.field("at").unwrap().1.schema.is_optional());
    let bytes = [2, 0xab, 0xcd, 2, 5, 0, 8, 4];
    let expected = vec![
        ValueRef::str("DONE"),
        ValueRef::bytes(&[0xab, 0xcd]),
        ValueRef::bytes(&[5]),
        ValueRef::Int(4),
        ValueRef::Int(2),
    ];
    assert_eq!(decoder.decode(&bytes).unwrap(), ValueRef::Struct(expected));
}
