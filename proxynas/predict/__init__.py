"""From a few labels to a verified winner: which candidates to label, a predictor, how far to trust
it, verification.

A search does, in this order::

    design = choose.spread(prior, first, seed)              # labels for design.index
    prediction = predictor.fit(features, labels, prior=prior, seed=seed)
    design = choose.further(prediction, design, more, seed)  # … again, for each of choose.rounds(n)
    trusted = trust.trust(prediction, labels, choose.weights(design, len(features)), unlabelled)
    verify.best(prediction, labels.index, k)                 # labels for them too
    verify.winner(labels), verify.headroom(prediction, labels, seed)
"""
