//! Parts of the gateway as the fuzz targets and their corpus tests feed them.
