"""Token stores: clips decoded and cropped once, cut into tokens, of which a run reads those that it chose."""
