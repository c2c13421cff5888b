"""What runs inside the sandbox: standard library only, no imports from the rest of the project.

Every fork copies what the zygote has loaded, so modules here import little; dataclasses, for one, would bring inspect,
ast and tokenize.
"""
