-- Somebody altered the publication, or dropped a watched table. What could not be mended, or nothing.
select coalesce(postbus.mend_feeds(), '')
