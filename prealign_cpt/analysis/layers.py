def layers(run, flags):
    raise NotImplementedError
