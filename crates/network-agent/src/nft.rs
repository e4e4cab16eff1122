//! A rule set as data, and the text for `nft -f -` that loads it or turns one into another.
//!
//! Every text is one transaction of the kernel: packets see the old rules or the new ones, never
//! half of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Tables by family and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    tables: BTreeMap<(&'static str, String), Table>,
}

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    chains: BTreeMap<String, Chain>,
    maps: BTreeMap<String, Map>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    hook: Option<String>,
    rules: Vec<String>,
}

impl Chain {
    /// Appends a rule.
    pub fn rule(&mut self, text: impl Into<String>) -> &mut Self {
        self.rules.push(text.into());
        self
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[String] {
        &self.rules
    }
}

/// A named map or, when values are empty, a named set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    definition: String,
    elements: BTreeMap<String, String>,
}

impl Map {
    /// Adds an element; `value` is empty in a set.
    pub fn element(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.elements.insert(key.into(), value.into());
        self
    }

    /// The keyword before its name.
    fn keyword(&self) -> &'static str {
        if self.definition.contains(':') {
            "map"
        } else {
            "set"
        }
    }
}

impl Table {
    /// A regular chain, made when it is not there.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }

    /// A chain at a hook, as `type filter hook forward priority 0; policy accept;`.
    pub fn base_chain(&mut self, name: &str, hook: &str) -> &mut Chain {
        let chain = self.chains.entry(name.to_owned()).or_default();
        chain.hook = Some(hook.to_owned());
        chain
    }

    /// A map or set with its definition, as `type ifname : verdict;`.
    pub fn map(&mut self, name: &str, definition: &str) -> &mut Map {
        let map = self.maps.entry(name.to_owned()).or_default();
        map.definition = definition.to_owned();
        map
    }

    /// The chain of that name, if there is one.
    #[must_use]
    pub fn get_chain(&self, name: &str) -> Option<&Chain> {
        self.chains.get(name)
    }

    fn same_frame(&self, other: &Self) -> bool {
        let hooks_same = self.chains.iter().all(|(name, chain)| {
            other
                .chains
                .get(name)
                .is_none_or(|theirs| theirs.hook == chain.hook)
        });
        let maps_same = self.maps.iter().all(|(name, map)| {
            other
                .maps
                .get(name)
                .is_none_or(|theirs| theirs.definition == map.definition)
        });
        hooks_same && maps_same
    }
}

impl Ruleset {
    /// The table of that family (`bridge`, `inet`, `ip`) and name, made when it is not there.
    pub fn table(&mut self, family: &'static str, name: &str) -> &mut Table {
        self.tables.entry((family, name.to_owned())).or_default()
    }

    /// The table of that family and name, if there is one.
    #[must_use]
    pub fn get_table(&self, family: &'static str, name: &str) -> Option<&Table> {
        self.tables.get(&(family, name.to_owned()))
    }

    /// Text that loads this rule set whatever was in its tables before.
    #[must_use]
    pub fn replace_text(&self) -> String {
        let mut out = Text::default();
        for (key, table) in &self.tables {
            out.replace_table(key, table);
        }
        out.0
    }

    /// Text that turns the loaded rule set `old` into this one; empty when they are equal.
    #[must_use]
    pub fn update_text(&self, old: &Self) -> String {
        let mut out = Text::default();
        for (key, table) in &self.tables {
            match old.tables.get(key) {
                Some(before) if before == table => {}
                Some(before) if before.same_frame(table) => out.update_table(key, before, table),
                _ => out.replace_table(key, table),
            }
        }
        for (family, name) in old
            .tables
            .keys()
            .filter(|key| !self.tables.contains_key(*key))
        {
            out.line(format_args!("delete table {family} {name}"));
        }
        out.0
    }
}

type TableKey = (&'static str, String);

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, args: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{args}");
    }

    fn replace_table(&mut self, key: &TableKey, table: &Table) {
        let (family, name) = key;
        // "add" first, because deleting a table that is not there is an error.
        self.line(format_args!("add table {family} {name}"));
        self.line(format_args!("delete table {family} {name}"));
        self.line(format_args!("add table {family} {name}"));
        self.update_table(key, &Table::default(), table);
    }

    fn update_table(&mut self, key: &TableKey, old: &Table, new: &Table) {
        let (family, table) = key;
        for (name, map) in new
            .maps
            .iter()
            .filter(|(name, _)| !old.maps.contains_key(*name))
        {
            let (keyword, definition) = (map.keyword(), &map.definition);
            self.line(format_args!(
                "add {keyword} {family} {table} {name} {{ {definition} }}"
            ));
        }
        for (name, chain) in new
            .chains
            .iter()
            .filter(|(name, _)| !old.chains.contains_key(*name))
        {
            match &chain.hook {
                Some(hook) => self.line(format_args!(
                    "add chain {family} {table} {name} {{ {hook} }}"
                )),
                None => self.line(format_args!("add chain {family} {table} {name}")),
            }
        }
        let none = BTreeMap::new();
        for (name, map) in &old.maps {
            let wanted = new.maps.get(name).map_or(&none, |m| &m.elements);
            let gone: BTreeSet<_> = map
                .elements
                .iter()
                .filter(|(k, v)| wanted.get(*k) != Some(v))
                .map(|(k, _)| k.clone())
                .collect();
            for key in gone {
                self.line(format_args!(
                    "delete element {family} {table} {name} {{ {key} }}"
                ));
            }
        }
        let changed = |name: &String, chain: &Chain| {
            old.chains
                .get(name)
                .is_some_and(|before| before.rules != chain.rules)
        };
        for name in old.chains.keys() {
            if new
                .chains
                .get(name)
                .is_none_or(|chain| changed(name, chain))
            {
                self.line(format_args!("flush chain {family} {table} {name}"));
            }
        }
        for (name, chain) in &new.chains {
            if !old.chains.contains_key(name) || changed(name, chain) {
                for rule in &chain.rules {
                    self.line(format_args!("add rule {family} {table} {name} {rule}"));
                }
            }
        }
        for (name, map) in &new.maps {
            let loaded = old.maps.get(name).map_or(&none, |m| &m.elements);
            for (key, value) in map
                .elements
                .iter()
                .filter(|(k, v)| loaded.get(*k) != Some(v))
            {
                if value.is_empty() {
                    self.line(format_args!(
                        "add element {family} {table} {name} {{ {key} }}"
                    ));
                } else {
                    self.line(format_args!(
                        "add element {family} {table} {name} {{ {key} : {value} }}"
                    ));
                }
            }
        }
        for name in old
            .chains
            .keys()
            .filter(|name| !new.chains.contains_key(*name))
        {
            self.line(format_args!("delete chain {family} {table} {name}"));
        }
        for (name, map) in old
            .maps
            .iter()
            .filter(|(name, _)| !new.maps.contains_key(*name))
        {
            self.line(format_args!(
                "delete {} {family} {table} {name}",
                map.keyword()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(port: &str, dport: u16) -> Ruleset {
        let mut set = Ruleset::default();
        let table = set.table("inet", "k");
        table
            .base_chain(
                "fwd1",
                "type filter hook forward priority 0; policy accept;",
            )
            .rule("iifname vmap @ports");
        table
            .map("ports", "type ifname : verdict;")
            .element(format!("\"{port}\""), format!("goto {port}-in"));
        table
            .chain(format!("{port}-in"))
            .rule(format!("tcp dport {dport} accept"))
            .rule("drop");
        set
    }

    #[test]
    fn the_same_rules_need_no_text() {
        assert_eq!(sample("a", 1).update_text(&sample("a", 1)), "");
    }

    #[test]
    fn a_changed_chain_is_refilled_and_nothing_else_touched() {
        let text = sample("a", 2).update_text(&sample("a", 1));
        assert_eq!(
            text,
            "flush chain inet k a-in\nadd rule inet k a-in tcp dport 2 accept\nadd rule inet k a-in drop\n"
        );
    }

    #[test]
    fn a_port_is_exchanged_in_an_order_the_kernel_takes() {
        let text = sample("b", 1).update_text(&sample("a", 1));
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "add chain inet k b-in",
                "delete element inet k ports { \"a\" }",
                "flush chain inet k a-in",
                "add rule inet k b-in tcp dport 1 accept",
                "add rule inet k b-in drop",
                "add element inet k ports { \"b\" : goto b-in }",
                "delete chain inet k a-in",
            ]
        );
    }

    #[test]
    fn a_changed_hook_replaces_the_table() {
        let mut new = sample("a", 1);
        new.table("inet", "k").base_chain(
            "fwd1",
            "type filter hook forward priority 1; policy accept;",
        );
        assert!(
            new.update_text(&sample("a", 1))
                .starts_with("add table inet k\ndelete table inet k\n")
        );
        assert_eq!(
            Ruleset::default().update_text(&new),
            "delete table inet k\n"
        );
    }
}
