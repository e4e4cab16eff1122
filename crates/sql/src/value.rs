//! Values that go into and come out of a database.

use crate::Error;
use std::sync::Arc;
use types::Timestamp;
use uuid::Uuid;

/// One value of a parameter or column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// Every integer, boolean (0/1) and time (microseconds UTC).
    Int(i64),
    /// DOUBLE PRECISION.
    Real(f64),
    /// Text, ids and JSON included.
    Text(String),
    /// BLOB.
    Bytes(Vec<u8>),
}

macro_rules! from_int {
    ($($int:ty),+) => {
        $(impl From<$int> for Value {
            fn from(value: $int) -> Self {
                Self::Int(i64::from(value))
            }
        })+
    };
}
from_int!(i64, i32, i16, u32, u16, u8, bool);

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Self::Text(value.to_string())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.0)
    }
}

macro_rules! from_uuid_id {
    ($($id:ident),+) => {
        $(
            impl From<types::$id> for Value {
                fn from(value: types::$id) -> Self {
                    Self::Text(value.0.to_string())
                }
            }
            impl FromValue for types::$id {
                fn from_value(value: &Value) -> Result<Self, Error> {
                    Uuid::from_value(value).map(Self)
                }
            }
        )+
    };
}
from_uuid_id!(
    ServerId,
    ImageId,
    NetworkId,
    PortId,
    TaskId,
    NodeId,
    ServiceId,
    MigrationId,
    GroupId,
    BlockDeviceId
);

macro_rules! from_text_id {
    ($($id:ident),+) => {
        $(
            impl From<&types::$id> for Value {
                fn from(value: &types::$id) -> Self {
                    Self::Text(value.0.clone())
                }
            }
            impl From<types::$id> for Value {
                fn from(value: types::$id) -> Self {
                    Self::Text(value.0)
                }
            }
            impl FromValue for types::$id {
                fn from_value(value: &Value) -> Result<Self, Error> {
                    String::from_value(value).map(Self)
                }
            }
        )+
    };
}
from_text_id!(FlavorId, ProjectId, UserId, HostName, RequestId);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What a column's value can be read as.
pub trait FromValue: Sized {
    /// Reads the value; a value of another kind is [`Error::Column`].
    fn from_value(value: &Value) -> Result<Self, Error>;
}

fn wrong<T>(value: &Value) -> Result<T, Error> {
    Err(Error::Column(format!(
        "{value:?} is not a {}",
        std::any::type_name::<T>()
    )))
}

macro_rules! to_int {
    ($($int:ty),+) => {
        $(impl FromValue for $int {
            fn from_value(value: &Value) -> Result<Self, Error> {
                match value {
                    Value::Int(int) => <$int>::try_from(*int).or_else(|_| wrong(value)),
                    _ => wrong(value),
                }
            }
        })+
    };
}
to_int!(i64, i32, u64, u32, u16, u8, usize);

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Int(int) => Ok(*int != 0),
            _ => wrong(value),
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Real(real) => Ok(*real),
            Value::Int(int) => Ok(*int as f64),
            _ => wrong(value),
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            _ => wrong(value),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Bytes(bytes) => Ok(bytes.clone()),
            Value::Text(text) => Ok(text.clone().into_bytes()),
            _ => wrong(value),
        }
    }
}

impl FromValue for Uuid {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Text(text) => Self::parse_str(text).or_else(|_| wrong(value)),
            _ => wrong(value),
        }
    }
}

impl FromValue for Timestamp {
    fn from_value(value: &Value) -> Result<Self, Error> {
        i64::from_value(value).map(Self)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Null => Ok(None),
            other => T::from_value(other).map(Some),
        }
    }
}

/// One row of a result. Columns are read by position, in the order of the SELECT, or by name.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// The column at `index`, counted from 0.
    pub fn get<T: FromValue>(&self, index: usize) -> Result<T, Error> {
        let value = self
            .values
            .get(index)
            .ok_or_else(|| Error::Column(format!("no column {index}")))?;
        T::from_value(value).map_err(|error| self.at(index, &error))
    }

    /// The column called `name`.
    pub fn named<T: FromValue>(&self, name: &str) -> Result<T, Error> {
        let index = self.columns.iter().position(|column| column == name);
        self.get(index.ok_or_else(|| Error::Column(format!("no column {name}")))?)
    }

    /// Moves a text out of the row, without copying it; NULL is `None`.
    pub fn take_string(&mut self, index: usize) -> Result<Option<String>, Error> {
        match self
            .values
            .get_mut(index)
            .map(|value| std::mem::replace(value, Value::Null))
        {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(Error::Column(format!("column {index} is not text"))),
        }
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no columns.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn at(&self, index: usize, error: &Error) -> Error {
        let name = self.columns.get(index).map_or("?", String::as_str);
        Error::Column(format!("column {name}: {error}"))
    }
}
