"""Files generated from the models: CRD, CEL rules, reference page, JSON schema."""
