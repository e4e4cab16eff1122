//! Not built yet.

use crate::Error;
use crate::store::{Job, Options};

pub(crate) struct Pool {}

impl Pool {
    pub(crate) fn open(_url: &str, _options: &Options) -> Result<Self, Error> {
        Err(Error::Url("this database is not supported yet".to_owned()))
    }

    pub(crate) fn submit(&self, job: Box<dyn Job>, _writes: bool) {
        job.fail(Error::Closed);
    }
}
