select postbus.maintain_streams()
