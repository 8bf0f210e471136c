-- Positions went backwards within an epoch: the database was restored without a new timeline.
select postbus.new_epoch()
