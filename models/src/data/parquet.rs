use std::{borrow::Cow, fs::File, sync::Arc};

use parquet::{
    errors::ParquetError,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::Field,
    schema::types::Type,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{DataError, Format, Place, Record, Sink, Source, unlike};
use crate::closed::wall;

/// Apache Parquet: a table in columns, whose values may be texts, numbers, lists and objects. Dates
/// and times are texts, as are decimal numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parquet {}

impl Format for Parquet {
    fn read(&self, source: &mut Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
        let path = source.path;
        match source.file()? {
            Some(file) => rows(file, source, sink),
            None => Err(DataError::Form {
                path: path.to_owned(),
                expected: "a Parquet file as it is".to_owned(),
                cause: "Parquet compresses its columns by itself, and is not read through gzip or \
                        Zstandard"
                    .to_owned(),
            }),
        }
    }
}

fn rows(file: File, source: &Source<'_>, sink: &mut dyn Sink) -> Result<(), DataError> {
    let path = source.path;
    let malformed = |error: ParquetError, row: usize| DataError::Form {
        path: path.to_owned(),
        expected: match row {
            0 => "a Parquet file".to_owned(),
            row => format!("Parquet's record {row}"),
        },
        cause: error.to_string(),
    };
    let file = wall::behind(|| SerializedFileReader::new(file)).map_err(ParquetError::General);
    let file = file.flatten().map_err(|error| malformed(error, 0))?;
    let schema = file.metadata().file_metadata().schema();
    let names: Vec<&str> = schema
        .get_fields()
        .iter()
        .map(|field| field.name())
        .collect();
    unlike(path, &names)?;
    sink.columns(path, &names)?;
    let read = schema.get_fields().iter();
    let read = read.filter(|field| source.reads(field.name()));
    let projection = Type::group_type_builder(schema.name())
        .with_fields(read.map(Arc::clone).collect())
        .build()
        .map_err(|error| malformed(error, 0))?;
    let rows = file.get_row_iter(Some(projection));
    let mut rows = rows.map_err(|error| malformed(error, 0))?;
    for number in 1.. {
        // On some damage the library panics.
        let row = wall::behind(|| rows.next()).map_err(ParquetError::General);
        let row = row.and_then(Option::transpose);
        let Some(row) = row.map_err(|error| malformed(error, number))? else {
            break;
        };
        let place = Place::Record(number);
        let mut fields = Vec::with_capacity(row.len());
        let mut wrong = None;
        for (name, field) in row.into_columns() {
            match value(field) {
                Ok(value) => fields.push((Cow::Owned(name), value)),
                Err(found) => wrong = wrong.or(Some((name, found))),
            }
        }
        match wrong {
            None => sink.record(Record::new(path, place, fields))?,
            Some((column, found)) => sink.malformed(DataError::Cell {
                path: path.to_owned(),
                place,
                column,
                expected: "UTF-8 text".to_owned(),
                found,
            })?,
        }
    }
    Ok(())
}

/// A value as JSON has it; numbers that JSON has not, such as NaN, are texts. Bytes that are no text
/// are described.
fn value(field: Field) -> Result<Value, String> {
    let float = |x: f64, text: String| match x.is_finite() {
        true => Value::from(x),
        false => Value::from(text),
    };
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) => x.into(),
        Field::Long(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float16(x) => float(f64::from(x.to_f32()), x.to_string()),
        // As written: 0.1, and not 0.10000000149.
        Field::Float(x) => {
            let text = x.to_string();
            float(text.parse().unwrap_or(f64::from(x)), text)
        }
        Field::Double(x) => float(x, x.to_string()),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err(format!("{} bytes that are no text", bytes.len())),
        },
        Field::Group(row) => Value::Object(object(row)?),
        Field::ListInternal(list) => {
            let items = list.elements().iter().cloned().map(value);
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().cloned().map(|(key, item)| {
                let key = match value(key)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                Ok((key, value(item)?))
            });
            Value::Object(entries.collect::<Result<Map<_, _>, String>>()?)
        }
        other @ (Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)) => match other {
            Field::Decimal(_) => other.to_string().into(),
            other => other.to_string().trim_matches('"').into(),
        },
    })
}

fn object(row: parquet::record::Row) -> Result<Map<String, Value>, String> {
    let fields = row.into_columns().into_iter();
    fields
        .map(|(name, field)| Ok((name, value(field)?)))
        .collect()
}
