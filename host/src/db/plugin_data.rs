//! stub
#![allow(missing_docs)]
use crate::id::PluginName;
pub struct PluginData;
#[derive(Debug)]
pub struct Migration {
    pub name: String,
    pub sql: String,
}
impl PluginData {
    pub async fn open(
        _: &crate::db::Db,
        _: &crate::config::Config,
        _: crate::clock::Random,
    ) -> crate::error::Result<Self> {
        Ok(Self)
    }
    pub async fn close(&self) {}

    pub async fn migrate(&self, _: &PluginName, _: &[Migration]) -> crate::error::Result<Vec<String>> {
        Ok(vec![])
    }
    pub async fn delete(&self, _: &PluginName) -> crate::error::Result<()> {
        Ok(())
    }
}
