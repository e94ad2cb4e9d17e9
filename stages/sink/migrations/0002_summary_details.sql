ALTER TABLE summaries ADD COLUMN sentiments JSON DEFAULT '[]';      -- [{"speaker", "sentiment"}]
ALTER TABLE summaries ADD COLUMN action_items JSON DEFAULT '[]';    -- [{"text", "owner", "segment_ids"}]
ALTER TABLE summaries ADD COLUMN outcome VARCHAR;
ALTER TABLE summaries ADD COLUMN doubted JSON DEFAULT '[]';         -- [{"text", "segment_ids", "doubt"}]: left out
