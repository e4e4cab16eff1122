-- What a server must remember between two actions: a JSON document, see `instances::Kept`.
ALTER TABLE instances ADD COLUMN kept TEXT;
