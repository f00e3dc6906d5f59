//! The manual's table of types: what each type of PostgreSQL becomes.
//!
//! Only the types are written down here, as the catalog and the stream tell them (oid, modifier, catalog entry). What each becomes is
//! asked of [`resolve`], and its remark of [`parse`], so the table can't say anything else than the tasks do. The list is whole: the tests
//! walk every oid and modifier that [`resolve`] knows a rule for, and every type of a real server's catalog; on that server they create
//! each type listed here and compare.

use rowstream_api::{TypeRow, ValueRef};

use super::{CatalogType, Kind, TypeCatalog, parse, resolve};

/// A type as the server tells it.
struct Listed {
    sql: &'static str,
    oid: u32,
    typmod: i32,
    made: Made,
}

/// How a type came to be.
enum Made {
    /// By the server.
    BuiltIn,
    /// By the server, of this type, with this delimiter.
    Array(u32, u8),
    /// By a statement; with what the catalog then says of it and of the types that it is made of.
    By(&'static str, fn() -> Vec<(u32, CatalogType)>),
}

/// The first oid that types of users can have (`FirstNormalObjectId`), and the next.
const USERS: u32 = 16_384;
const USERS_NEXT: u32 = USERS + 1;

/// The modifier of `numeric(precision, scale)`.
const fn numeric(precision: i32, scale: i32) -> i32 {
    ((precision << 16) | (scale & 0x7ff)) + 4
}

const fn plain(sql: &'static str, oid: u32) -> Listed {
    Listed { sql, oid, typmod: -1, made: Made::BuiltIn }
}

const fn modified(sql: &'static str, oid: u32, typmod: i32) -> Listed {
    Listed { sql, oid, typmod, made: Made::BuiltIn }
}

const fn array(sql: &'static str, oid: u32, element: u32) -> Listed {
    Listed { sql, oid, typmod: -1, made: Made::Array(element, b',') }
}

const fn user(sql: &'static str, made_by: &'static str, catalog: fn() -> Vec<(u32, CatalogType)>) -> Listed {
    Listed { sql, oid: USERS, typmod: -1, made: Made::By(made_by, catalog) }
}

const LISTED: &[Listed] = &[
    plain("boolean", 16),
    plain("smallint", 21),
    plain("integer", 23),
    plain("bigint", 20),
    plain("oid", 26),
    plain("real", 700),
    plain("double precision", 701),
    modified("numeric(12,2)", 1700, numeric(12, 2)),
    modified("numeric(38,0)", 1700, numeric(38, 0)),
    modified("numeric(80,40)", 1700, numeric(80, 40)),
    modified("numeric(5,-2)", 1700, numeric(5, -2)),
    plain("numeric", 1700),
    plain("money", 790),
    plain("text", 25),
    plain("varchar", 1043),
    modified("varchar(20)", 1043, 24),
    modified("char(10)", 1042, 14),
    plain("name", 19),
    plain("\"char\"", 18),
    user("citext", "CREATE EXTENSION citext", || extension("citext", "citext")),
    plain("bytea", 17),
    plain("json", 114),
    plain("jsonb", 3802),
    user("hstore", "CREATE EXTENSION hstore", || extension("hstore", "hstore")),
    plain("xml", 142),
    plain("uuid", 2950),
    plain("date", 1082),
    modified("time(3)", 1083, 3),
    plain("time", 1083),
    plain("timetz", 1266),
    modified("timestamp(3)", 1114, 3),
    plain("timestamp", 1114),
    modified("timestamptz(3)", 1184, 3),
    plain("timestamptz", 1184),
    plain("interval", 1186),
    modified("bit(1)", 1560, 1),
    modified("bit(8)", 1560, 8),
    modified("varbit(8)", 1562, 8),
    plain("varbit", 1562),
    user("mood", "CREATE TYPE mood AS ENUM ('sad', 'happy')", || vec![(USERS, mood())]),
    user("price", "CREATE DOMAIN price AS numeric(12,2)", || {
        vec![(USERS, CatalogType::Domain { base: 1700, typmod: numeric(12, 2) })]
    }),
    user("pair", "CREATE TYPE pair AS (a integer, b text)", || vec![(USERS, CatalogType::Other)]),
    array("integer[]", 1007, 23),
    array("bigint[]", 1016, 20),
    array("double precision[]", 1022, 701),
    Listed { sql: "numeric(12,2)[]", oid: 1231, typmod: numeric(12, 2), made: Made::Array(1700, b',') },
    array("numeric[]", 1231, 1700),
    array("boolean[]", 1000, 16),
    array("text[]", 1009, 25),
    array("uuid[]", 2951, 2950),
    array("jsonb[]", 3807, 3802),
    array("date[]", 1182, 1082),
    array("timestamp[]", 1115, 1114),
    array("timestamptz[]", 1185, 1184),
    Listed { sql: "box[]", oid: 1020, typmod: -1, made: Made::Array(603, b';') },
    user("mood[]", "CREATE TYPE mood AS ENUM ('sad', 'happy')", || {
        vec![(USERS, CatalogType::Array { element: USERS_NEXT, delimiter: b',' }), (USERS_NEXT, mood())]
    }),
    plain("point", 600),
    plain("box", 603),
    plain("circle", 718),
    plain("line", 628),
    plain("lseg", 601),
    plain("path", 602),
    plain("polygon", 604),
    user("geometry", "CREATE EXTENSION postgis", || extension("postgis", "geometry")),
    user("geography", "CREATE EXTENSION postgis", || extension("postgis", "geography")),
    user("vector(3)", "CREATE EXTENSION vector", || extension("vector", "vector")),
    plain("inet", 869),
    plain("cidr", 650),
    plain("macaddr", 829),
    plain("macaddr8", 774),
    plain("int4range", 3904),
    plain("int8range", 3926),
    plain("numrange", 3906),
    plain("tsrange", 3908),
    plain("tstzrange", 3910),
    plain("daterange", 3912),
    plain("int4multirange", 4451),
    plain("int8multirange", 4536),
    plain("nummultirange", 4532),
    plain("tsmultirange", 4533),
    plain("tstzmultirange", 4534),
    plain("datemultirange", 4535),
    user("ltree", "CREATE EXTENSION ltree", || extension("ltree", "ltree")),
    plain("tsvector", 3614),
    plain("tsquery", 3615),
    plain("jsonpath", 4072),
    plain("pg_lsn", 3220),
    plain("pg_snapshot", 5038),
    plain("txid_snapshot", 2970),
    plain("xid", 28),
    plain("xid8", 5069),
    plain("cid", 29),
    plain("tid", 27),
    plain("int2vector", 22),
    plain("oidvector", 30),
    plain("aclitem", 1033),
    plain("refcursor", 1790),
    plain("regclass", 2205),
    plain("regcollation", 4191),
    plain("regconfig", 3734),
    plain("regdictionary", 3769),
    plain("regnamespace", 4089),
    plain("regoper", 2203),
    plain("regoperator", 2204),
    plain("regproc", 24),
    plain("regprocedure", 2202),
    plain("regrole", 4096),
    plain("regtype", 2206),
];

/// Types of the server's own that no table of a user's has: nothing can be written into them.
pub const NOT_FOR_TABLES: &[&str] = &[
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

/// Of the types that are not listed.
pub const UNLISTED: &str = "A type that is not listed, such as one of an extension, becomes its text.";

fn extension(extension: &str, name: &str) -> Vec<(u32, CatalogType)> {
    vec![(USERS, CatalogType::Extension(extension.to_owned(), name.to_owned()))]
}

fn mood() -> CatalogType {
    CatalogType::Enum(vec!["sad".to_owned(), "happy".to_owned()])
}

impl Listed {
    fn catalog(&self) -> TypeCatalog {
        match self.made {
            Made::BuiltIn => TypeCatalog::new(),
            Made::Array(element, delimiter) => {
                TypeCatalog::from([(self.oid, CatalogType::Array { element, delimiter })])
            }
            Made::By(_, catalog) => catalog().into_iter().collect(),
        }
    }
}

/// What each type becomes. The source has no settings about types.
#[must_use]
pub fn type_table() -> Vec<TypeRow> {
    let row = |listed: &Listed| {
        let resolved = resolve(listed.oid, listed.typmod, &listed.catalog());
        let made_by = match listed.made {
            Made::BuiltIn | Made::Array(..) => None,
            Made::By(statement, _) => Some(statement),
        };
        let remark = remark(&resolved.kind);
        TypeRow { sql: listed.sql, made_by, schema: resolved.schema.build(), options: Vec::new(), remark }
    };
    LISTED.iter().map(row).collect()
}

/// Without a wildcard: a new kind must be thought about.
fn remark(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Decimal => Some("`NaN` and infinities are refused".to_owned()),
        Kind::Date | Kind::TimestampMillis | Kind::TimestampMicros | Kind::TimestampTz => {
            let shown = |text| shown(kind, text);
            Some(format!("`infinity` is `{}`, `-infinity` is `{}`", shown("infinity"), shown("-infinity")))
        }
        Kind::TimeTz => Some(format!("in UTC: `12:00:00+02` is `{}`", shown(kind, "12:00:00+02"))),
        Kind::Interval => Some(format!("microseconds; a month is `{}`", shown(kind, "1 mon"))),
        Kind::Bits => Some("the lowest bits first".to_owned()),
        Kind::Hstore => Some(format!("`a=>1` is `{}`", shown(kind, r#""a"=>"1""#))),
        Kind::Array { element, .. } => {
            let dimensions = (shown(kind, "{{NULL}}") == REFUSED).then(|| MORE_DIMENSIONS.to_owned());
            let remarks: Vec<String> = remark(element).into_iter().chain(dimensions).collect();
            (!remarks.is_empty()).then(|| remarks.join("; "))
        }
        Kind::Bool
        | Kind::Int
        | Kind::Float32
        | Kind::Float64
        | Kind::Money
        | Kind::Text
        | Kind::Bytea
        | Kind::TimeMillis
        | Kind::TimeMicros
        | Kind::Bit
        | Kind::Point => None,
    }
}

const REFUSED: &str = "refused";
const MORE_DIMENSIONS: &str = "more than one dimension is refused";

/// What a task reads from a text.
fn shown(kind: &Kind, text: &str) -> String {
    match parse(kind, text) {
        Ok(ValueRef::Str(text)) => text.into_owned(),
        Ok(value) => value.as_int().map_or_else(String::new, |number| number.to_string()),
        Err(_) => REFUSED.to_owned(),
    }
}

#[cfg(test)]
mod tests;
