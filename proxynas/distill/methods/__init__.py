"""The methods, one file each. They share the modules beside this folder and never import each
other."""
